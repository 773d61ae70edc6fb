"""Page templates: random choices become a `Page`. Those of the held-out split share no layout with those trained on."""

from collections.abc import Callable
from dataclasses import replace
from random import Random

from pocket.screens.composer import Composer
from pocket.screens.fonts import text_width
from pocket.screens.page import Page, Panel, Widget
from pocket.screens.screen import ROW, TOGGLES
from pocket.screens.words import Phrases, Split


def compose(rng: Random, phrases: Phrases, width: int, height: int) -> Page:
    """A random page of a template of its split, chosen by `rng` and filled with names from `phrases`."""
    composer = Composer(rng, phrases, width, height)
    rng.choice(_TEMPLATES[phrases.split])(composer)
    return composer.page()


def _heading(c: Composer) -> int:
    """A title, on a bar or plain; returns the first free row."""
    row = c.rng.choice((0, 1, 1))
    x = c.rng.randint(6, 20)
    if c.rng.random() < 0.4:
        c.panels.append(Panel((0, 0, c.width, ROW * (row + 1) + 8), accent=True))
    if c.rng.random() < 0.25:
        room = c.width // 3
        c.add("title", row, x, c.width - room - 30)
        c.add(c.rng.choice(("button", "link")), row, c.width - room - 8, room)
    else:
        c.add("title", row, x, c.width - 2 * x)
    row += 2
    if c.rng.random() < 0.2:
        _tabs(c, row, c.rng.randint(2, 4))
        row += 2
    return row


def _tabs(c: Composer, row: int, count: int) -> None:
    """A row of `count` tabs of which one is selected."""
    width = (c.width - 16) // count
    selected = c.rng.randrange(count)
    for index in range(count):
        if c.add("tab", row, 8 + index * width, width - 4):
            c.widgets[-1] = replace(c.widgets[-1], state=TOGGLES["tab"][index != selected])


def _fill(c: Composer, kinds: tuple[str, ...], x: float, width: float, rows: tuple[int, int]) -> None:
    """A column of widgets from `rows[0]` to before `rows[1]`, mostly one every 32 pixels."""
    row = rows[0]
    while row < rows[1] - 1:
        taken = c.add(c.rng.choice(kinds), row, x, width)
        row += (taken or 1) + c.rng.choice((1, 1, 1, 2))


_KINDS = ("field", "checkbox", "button", "text", "switch", "item", "link", "radio", "card", "tab")
_PALETTES = (
    ("field", "field", "checkbox", "button", "text"), ("checkbox", "switch", "radio", "text"),
    ("switch", "item", "link"),
    ("text", "link", "button", "field"), ("radio", "checkbox", "switch", "field", "button", "link", "item", "text"),
    ("card", "item", "text"), ("button", "button", "link", "text"),
)  # fmt: skip


def _columns(c: Composer) -> None:
    """Forms, settings and dashboards: one to three columns of widgets, perhaps buttons below."""
    top = _heading(c) + c.rng.choice((0, 0, 1))
    bottom = c.rows
    if c.rng.random() < 0.45:
        bottom -= 2
        count = c.rng.randint(1, 3)
        width = min(140, (c.width - 16) // count)
        start = c.rng.choice((8, c.width - 8 - count * width))
        for index in range(count):
            c.add("button", bottom, start + index * width, width - 8)
    count = max(1, min(3, c.width // c.rng.choice((120, 160, 200))))
    width = c.width // count
    for index in range(count):
        inset = c.rng.randint(6, 14)
        _fill(c, c.rng.choice(_PALETTES), index * width + inset, width - inset - 8, (top, bottom))


def _kiosk(c: Composer) -> None:
    """Ordering screens: a grid of tiles with a name and a price, and a way to pay."""
    top = _heading(c) + 1
    count = max(1, min(4, c.width // c.rng.choice((104, 128, 160))))
    width = c.width // count
    row = top
    while row + 5 <= c.rows:
        for index in range(count):
            c.add("card", row, index * width + 6, width - 12)
        row += c.rng.choice((4, 4, 5))
    if row + 1 < c.rows:
        c.add("text", c.rows - 2, 10, c.width // 2 - 20)
        c.add("button", c.rows - 2, c.width // 2, c.width // 2 - 10)


def _listing(c: Composer) -> None:
    """Lists: rows across the page, each with something at its right end."""
    top = _heading(c)
    inset = c.rng.randint(4, 20)
    kinds = c.rng.choice((("item",), ("switch",), ("item", "item", "link"), ("checkbox", "item")))
    _fill(c, kinds, inset, c.width - 2 * inset, (top, c.rows))


def _dialog(c: Composer) -> None:
    """A dialog in the middle with a title, some content and its buttons."""
    width = c.rng.randint(c.width * 3 // 5, c.width - 24)
    left = (c.width - width) // 2
    rows = c.rng.randint(7, max(7, min(13, c.rows - 2)))
    top = (c.rows - rows) // 2
    c.panels.append(Panel((left, ROW * top - 6, left + width, ROW * (top + rows) + 4)))
    c.add("title", top, left + 12, width - 24)
    _fill(c, c.rng.choice((*_PALETTES[:4], ("text",))), left + 12, width - 24, (top + 2, top + rows - 2))
    count = c.rng.randint(1, 3)
    share = (width - 16) // count
    for index in range(count):
        c.add("button", top + rows - 2, left + 8 + index * share, share - 8)


def _menu(c: Composer) -> None:
    """A menu at the left and widgets at the right."""
    top = _heading(c)
    width = c.rng.randint(100, max(101, c.width // 3))
    c.panels.append(Panel((0, ROW * top - 4, width + 8, c.height)))
    _fill(c, ("item",) if c.rng.random() < 0.6 else ("link",), 6, width - 6, (top, c.rows))
    _fill(c, c.rng.choice(_PALETTES), width + 18, c.width - width - 28, (top, c.rows))


def _scatter(c: Composer) -> None:
    """Anything anywhere, a title too: no layout that answers could lean on."""
    row, kinds = c.rng.choice((0, 1, 1, 2)), ["title", *(kind for palette in _PALETTES for kind in palette)]
    while row < c.rows:
        count, taken = c.rng.randint(1, max(1, c.width // 120)), 0
        for index in range(count):
            inset = c.rng.randint(4, 30)
            if c.rng.random() < 0.75:
                kind = c.rng.choice(kinds)
                taken = max(taken, c.add(kind, row, c.width // count * index + inset, c.width // count - inset - 6))
                if kind == "title":
                    kinds.remove("title")
        row += max(taken, 1) + c.rng.choice((1, 1, 1, 2))


def _blocks(c: Composer) -> None:
    """A title, and under it (seldom above) areas cut out of each other, each with some kinds of widgets."""
    areas = (0, c.rows)
    if c.rng.random() < 0.9:
        row = c.rng.choice((0, 0, 1, 1, 2, 3, c.rows - 2))
        x = c.rng.randint(4, c.width // 3)
        c.add("title", row, x, c.width - x - 4)
        areas = (0, row) if row > 3 else (row + c.rng.choice((1, 2, 2, 3)), c.rows)
    _cut(c, (0, c.width), areas, 3)
    tabs = [index for index, widget in enumerate(c.widgets) if widget.kind == "tab"]
    selected = c.rng.choice(tabs) if tabs else None
    for index in tabs:
        c.widgets[index] = replace(c.widgets[index], state=TOGGLES["tab"][index != selected])


def _cut(c: Composer, across: tuple[int, int], rows: tuple[int, int], depth: int) -> None:
    """Fills an area of pixels by rows, or cuts it in two and goes on with both, at most `depth` times."""
    left, right = across
    top, bottom = rows
    choice = c.rng.random() if depth else 1.0
    if choice < 0.4 and right - left > 200:
        middle = left + int((right - left) * c.rng.uniform(0.3, 0.7))
        _cut(c, (left, middle), rows, depth - 1)
        _cut(c, (middle, right), rows, depth - 1)
    elif choice < 0.75 and bottom - top >= 7:
        middle = c.rng.randint(top + 2, bottom - 2)
        _cut(c, across, (top, middle), depth - 1)
        _cut(c, across, (middle, bottom), depth - 1)
    else:
        _area(c, across, rows)


def _area(c: Composer, across: tuple[int, int], rows: tuple[int, int]) -> None:
    """A column of widgets of up to four kinds, or rows of a few beside each other; perhaps on a panel."""
    left, right = across[0] + c.rng.randint(4, 24), across[1] - c.rng.randint(4, 16)
    if c.rng.random() < 0.35:
        c.panels.append(Panel((left - 6, ROW * rows[0] - 4, right + 4, ROW * rows[1] - 6)))
    kinds = tuple(c.rng.sample(_KINDS, c.rng.randint(1, 4)))
    if c.rng.random() < 0.7:
        _fill(c, kinds, left, right - left, rows)
        return
    count = max(1, min(4, (right - left) // c.rng.choice((70, 100, 140))))
    width = (right - left) // count
    for row in range(rows[0], rows[1] - 1, 4 if {"card", "field"} & {*kinds} else 2):
        for index in range(count):
            c.add(c.rng.choice(kinds), row, left + index * width, width - 6)


def _receipt(c: Composer) -> None:
    """Held out: a narrow column of items in the middle, a total and a button under it."""
    width = c.rng.randint(c.width // 2, c.width * 3 // 4)
    left = (c.width - width) // 2
    c.panels.append(Panel((left - 8, 4, left + width + 8, c.height - 4)))
    c.add("title", 1, left + 6, width - 12)
    _fill(c, ("item",), left, width, (3, c.rows - 4))
    c.add("text", c.rows - 4, left + 6, width // 2)
    c.add("button", c.rows - 2, left, width)


def _toolbar(c: Composer) -> None:
    """Held out: a row of buttons at the top, the title under it, switches left and fields right."""
    count = max(2, c.width // 110)
    width = (c.width - 8) // count
    for index in range(count):
        c.add("button", 1, 6 + index * width, width - 6)
    c.add("title", 3, 10, c.width - 20)
    half = c.width // 2
    _fill(c, ("switch", "checkbox"), 10, half - 24, (5, c.rows))
    _fill(c, ("field", "link"), half + 6, half - 20, (5, c.rows))


def _panels(c: Composer) -> None:
    """Held out: two panels side by side, radio buttons or text in one, a list in the other, tabs below."""
    c.add("title", 0, 12, c.width - 24)
    half = c.width // 2
    for left in (4, half + 2):
        c.panels.append(Panel((left, ROW * 2 - 8, left + half - 8, ROW * (c.rows - 3))))
    _fill(c, ("radio", "text"), 14, half - 28, (2, c.rows - 3))
    _fill(c, ("item", "link"), half + 8, half - 24, (2, c.rows - 3))
    _tabs(c, c.rows - 2, 3)


_Template = Callable[[Composer], None]
_TEMPLATES: dict[Split, tuple[_Template, ...]] = {
    "train": (*[_blocks] * 4, _columns, _columns, _scatter, _scatter, _kiosk, _listing, _dialog, _menu),
    "heldout": (_receipt, _toolbar, _panels),
}


def dense_page(rng: Random, phrases: Phrases, width: int, height: int) -> Page:
    """A page packed with text in every row, for learning letters: nothing sensible can be asked about it."""
    composer = Composer(rng, phrases, width, height)
    for row in range(composer.rows):
        x: float = rng.randint(0, 24)
        while x < width - 30:
            kind = rng.choice(("text", "text", "text", "link", "title"))
            maker = rng.choices((phrases.noise, phrases.value, phrases.name), weights=(30, 28, 42))[0]
            text = maker(rng)
            room = text_width(replace(composer.theme.face, bold=kind == "title"), text)
            if x + room > width:
                break
            composer.widgets.append(Widget(kind, text, row, x, room))
            x += room + rng.randint(6, 40)
    return composer.page()
