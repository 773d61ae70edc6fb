"""Real web pages with random content, for Chromium to draw. Text keeps to the same 16-pixel rows as the painter's.

Every element to be named carries `data-kind`; `chromium.py` reads boxes, states and letters back from the DOM, so
nothing here says where anything ends up. Templates of the held-out split share no layout with those trained on.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from pathlib import Path
from random import Random

from pocket.screens.fonts import FAMILIES
from pocket.screens.page import Theme, random_theme
from pocket.screens.words import Phrases, Split


@dataclass(frozen=True, slots=True)
class HtmlPage:
    """A document and the viewport to show it in."""

    html: str
    width: int
    height: int


@dataclass(slots=True)
class _Writer:
    """Writes widgets as HTML with names that never repeat. Mutates its generator."""

    rng: Random
    phrases: Phrases
    names: set[str]

    def name(self, words: int = 2) -> str:
        while True:
            name = self.phrases.name(self.rng, words)
            if name.lower() not in self.names:
                self.names.add(name.lower())
                return escape(name)

    def heading(self, level: int = 1) -> str:
        return f'<h{level} data-kind="title">{self.name()}</h{level}>'

    def text(self) -> str:
        return f'<p data-kind="text"><span>{self.name()}</span></p>'

    def link(self) -> str:
        return f'<div><a data-kind="link">{self.name()}</a></div>'

    def button(self, words: int = 2) -> str:
        disabled = " disabled" if self.rng.random() < 0.12 else ""
        main = ' class="main"' if self.rng.random() < 0.5 else ""
        return f'<button data-kind="button"{main}{disabled}>{self.name(words)}</button>'

    def toggle(self, kind: str) -> str:
        on = self.rng.random() < 0.5
        if kind == "switch":
            mark = f'<span class="switch{" on" if on else ""}" role="switch" aria-checked="{str(on).lower()}"></span>'
        else:
            mark = f'<input type="{kind}"{" checked" if on else ""}>'
        return f'<label data-kind="{kind}" style="width:max-content">{mark}<span>{self.name()}</span></label>'

    def field(self, beside: bool = False) -> str:
        value = escape(self.phrases.value(self.rng, max_length=14)) if self.rng.random() < 0.7 else ""
        entry = f'<input class="text" value="{value}">'
        if beside:
            label = f'<span style="flex:none">{self.name(1)}</span>'
            return f'<label data-kind="field" style="display:flex;gap:8px">{label}{entry}</label>'
        return f'<label data-kind="field"><span>{self.name()}</span><div style="height:16px"></div>{entry}</label>'

    def item(self) -> str:
        value = f"<span data-value>{self.phrases.price(self.rng)}</span>" if self.rng.random() < 0.7 else ""
        return f'<div class="line" data-kind="item"><span>{self.name()}</span>{value}</div>'

    def card(self) -> str:
        value = (
            self.phrases.price(self.rng)
            if self.rng.random() < 0.7
            else escape(self.phrases.value(self.rng, max_length=12))
        )
        return f'<div class="card" data-kind="item"><b>{self.name(1)}</b><div data-value>{value}</div></div>'

    def tabs(self, count: int) -> str:
        chosen = self.rng.randrange(count)
        tabs = (
            f'<span role="tab" data-kind="tab" aria-selected="{str(i == chosen).lower()}">{self.name(1)}</span>'
            for i in range(count)
        )
        return _div("display:flex;gap:6px", *tabs)

    def some(self, kinds: str, count: int) -> str:
        """`count` widgets of random kinds, each on rows of its own."""
        makers: dict[str, Callable[[], str]] = {
            "f": self.field, "c": lambda: self.toggle("checkbox"), "r": lambda: self.toggle("radio"), "l": self.link,
            "s": lambda: self.toggle("switch"), "b": self.button, "t": self.text, "i": self.item,
        }  # fmt: skip
        return "".join(makers[self.rng.choice(kinds)]() for _ in range(count))


def _div(style: str, *inner: str, kind: str = "") -> str:
    """A block of the style sheet's class `kind`."""
    return f'<div class="{kind}" style="{style}">{"".join(inner)}</div>'


def _form(w: _Writer, width: int, rows: int) -> str:
    bar = w.rng.random() < 0.5
    top = _div("padding:16px 12px 8px;margin-bottom:8px" if bar else "padding:16px 12px", w.heading(), kind="bar" * bar)
    columns = 2 if width >= 384 and w.rng.random() < 0.6 else 1
    body = (_div("flex:1", w.some("ffcrst", max(1, (rows - 7) // 4 + 1)), kind="stack") for _ in range(columns))
    return top + _div("display:flex;gap:16px;padding:0 12px", *body) + _foot(w)


def _foot(w: _Writer) -> str:
    buttons = [w.button(1) for _ in range(w.rng.randint(1, 3))]
    side = w.rng.choice(("left:12px", "right:12px"))
    return _div(f"position:absolute;bottom:16px;{side};display:flex;gap:8px;height:16px", *buttons)


def _settings(w: _Writer, _width: int, rows: int) -> str:
    tabs = _div("padding:0 12px 16px", w.tabs(w.rng.randint(2, 3))) if w.rng.random() < 0.5 else ""
    body = _div("padding:0 12px", w.some("scirl", rows // 2 - 3), kind="stack")
    return _div("padding:16px 12px", w.heading()) + tabs + body


def _kiosk(w: _Writer, width: int, rows: int) -> str:
    columns = w.rng.randint(2, max(2, width // 120))
    cards = (_div("", w.card()) for _ in range(columns * max(1, (rows - 6) // 4)))
    grid = f"display:grid;grid-template-columns:repeat({columns},1fr);column-gap:10px;row-gap:32px;padding:16px 10px"
    return _div("padding:16px 12px", w.heading(), kind="bar") + _div(grid, *cards) + _foot(w)


def _sidebar(w: _Writer, width: int, rows: int) -> str:
    kinds = "l" if w.rng.random() < 0.5 else "i"
    left = _div(f"width:{width // 3}px;padding:16px 8px", w.some(kinds, rows // 2 - 2), kind="stack")
    right = _div("flex:1;padding:16px 12px", w.heading(), w.some("ftcsbl", rows // 2 - 4), kind="stack")
    return _div("display:flex", left, right)


def _inbox(w: _Writer, _width: int, rows: int) -> str:
    """Held out: two bars with a list between them."""
    ends = _div("", w.heading()) + _div("", w.button(1))
    bar = _div("display:flex;justify-content:space-between;padding:16px 14px", ends)
    lines = _div("padding:0 14px", w.some("ii", rows // 2 - 5), kind="stack")
    return bar + lines + _div("position:absolute;bottom:16px;left:14px;height:16px", w.tabs(3))


def _modal(w: _Writer, _width: int, rows: int) -> str:
    """Held out: a dialog on a card."""
    left = w.rng.randint(2, 4) * 8
    card = _div("position:absolute;left:-1px;right:-1px;top:-12px;bottom:-16px;z-index:-1", kind="card")
    inner = _div("padding-bottom:16px", w.heading(2)) + _div("", w.some("tcf", max(1, rows // 3 - 2)), kind="stack")
    buttons = _div(
        "display:flex;gap:10px;justify-content:flex-end;height:16px;margin-top:16px", w.button(1), w.button(1)
    )
    return _div(
        f"position:absolute;left:{left}px;right:{left}px;top:32px;z-index:0;padding:0 16px", card, inner, buttons
    )


def _checkout(w: _Writer, _width: int, rows: int) -> str:
    """Held out: an order at the left, how to pay at the right."""
    order = _div("flex:3;padding:16px 12px", w.heading(), w.some("i", rows // 2 - 4), w.text(), kind="stack")
    payment = (w.some("r", 2), w.some("c", 1), w.field(), w.button())
    return _div("display:flex", order, _div("flex:2;padding:48px 12px 0", *payment, kind="stack"))


_Template = Callable[[_Writer, int, int], str]
_TEMPLATES: dict[Split, tuple[_Template, ...]] = {
    "train": (_form, _form, _settings, _kiosk, _sidebar),
    "heldout": (_inbox, _modal, _checkout),
}
_VIEWPORTS = ((384, 256), (320, 256), (384, 320), (512, 320), (448, 256), (256, 384))


def html_page(rng: Random, phrases: Phrases) -> HtmlPage:
    """A random document of the split that `phrases` belongs to."""
    width, height = rng.choice(_VIEWPORTS)
    theme = random_theme(rng)
    body = rng.choice(_TEMPLATES[phrases.split])(_Writer(rng, phrases, set()), width, height // 16)
    style = f":root{{--width:{width}px;--height:{height}px;{_variables(theme)}}}{_style_sheet()}"
    return HtmlPage(f'<!doctype html><meta charset="utf-8"><style>{style}</style><body>{body}</body>', width, height)


@lru_cache(maxsize=1)
def _style_sheet() -> str:
    return Path(__file__).with_name("style.css").read_text()


def _variables(theme: Theme) -> str:
    """A theme as the style sheet's variables."""
    colors = {"paper": theme.paper, "ink": theme.ink, "accent": theme.accent, "accent-ink": theme.accent_ink,
              "panel": theme.panel, "line": theme.line, "muted": theme.muted}  # fmt: skip
    values = {name: f"#{red:02x}{green:02x}{blue:02x}" for name, (red, green, blue) in colors.items()}
    values |= {"size": f"{theme.face.size}px", "radius": f"{theme.radius}px"}
    values["family"] = f'"{FAMILIES[theme.face.family].name}"'
    return "".join(f"--{name}:{value};" for name, value in values.items())
