"""The held-out sets. Their strings, page templates and random seeds are none that training ever draws.

- `painted`: 500 screens by the painter, some in pairs before and after a change.
- `small`: 200 more of at most 256x128 pixels, with a handful of elements each.
- `chats`: 100 chats about small painted screens, of which the third question counts.
- `chromium`: 200 generated pages drawn by headless Chromium.
- `handwritten`: the 20 pages in `pages/`, written by hand, unlike anything the generator makes: text of any size, off
  the 16-pixel rows, real sentences, other typefaces.

The same call gives the same screens: case `i` depends on the set's name and `i` only.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random

from pocket.eval.case import Case
from pocket.screens.archive import Rendered
from pocket.screens.changes import pair
from pocket.screens.chromium import browser, render
from pocket.screens.html import HtmlPage, html_page
from pocket.screens.painter import paint
from pocket.screens.questions import (
    Ask,
    ask_absent,
    ask_change,
    ask_click,
    ask_exists,
    ask_kind,
    ask_list,
    ask_names,
    ask_point,
    ask_read,
    ask_set,
    ask_state,
    ask_title,
    ask_type,
    ask_value,
)
from pocket.screens.templates import compose
from pocket.screens.words import Phrases

PAGES = Path(__file__).with_name("pages")
_SIZES = ((384, 256), (320, 256), (256, 384), (384, 320), (512, 320), (448, 256), (256, 256))
_LARGE = ((640, 384), (768, 512))
_SMALL = ((128, 96), (192, 96), (160, 128), (192, 128), (256, 96), (256, 128))
_LARGE_SHARE = 0.04
_CHANGE_EVERY = 4  # painted screens per pair of screens
_TRIES = 8  # an element may lie where no point of the answer's grid does: then another one is drawn
_ROTA: tuple[tuple[Ask, ...], ...] = (
    (ask_point, ask_read, ask_click, ask_list), (ask_point, ask_title, ask_state, ask_absent),
    (ask_point, ask_read, ask_names, ask_type), (ask_point, ask_value, ask_kind, ask_set),
    (ask_point, ask_title, ask_exists, ask_click), (ask_point, ask_read, ask_state, ask_absent),
)  # fmt: skip
_EVERYTHING: tuple[Ask, ...] = (
    ask_point, ask_point, ask_click, ask_read, ask_read, ask_title, ask_value, ask_kind, ask_state, ask_list, ask_names,
    ask_absent, ask_exists, ask_type, ask_set,
)  # fmt: skip
_CHATS: tuple[tuple[Ask, ...], ...] = (
    (ask_title, ask_read, ask_point), (ask_point, ask_state, ask_read), (ask_read, ask_click, ask_kind),
    (ask_kind, ask_point, ask_click), (ask_exists, ask_read, ask_absent), (ask_click, ask_point, ask_title),
)  # fmt: skip


def painted(limit: int) -> Iterator[Case]:
    """Questions about `limit` painted screens, and about as many pairs as a quarter of them."""
    return _painted("painted", limit, lambda rng: rng.choice(_LARGE if rng.random() < _LARGE_SHARE else _SIZES))


def small(limit: int) -> Iterator[Case]:
    """The same about small screens."""
    return _painted("small", limit, lambda rng: rng.choice(_SMALL))


def chats(limit: int) -> Iterator[Case]:
    """The third question of each of `limit` chats about small screens, the first two answered as they should be."""
    phrases = Phrases("heldout")
    for index in range(limit):
        name = f"chats/{index}"
        rng = Random(f"heldout/{name}")
        rendered = paint(compose(rng, phrases, *rng.choice(_SMALL)), rng.uniform(0.75, 1.1))
        asked = [case.turn for case in _questions(name, rng, rendered, _CHATS[index % len(_CHATS)])]
        if len(asked) >= 3:
            yield Case(f"{name}/2", (rendered[0],), rendered[1], asked[2], tuple(asked[:2]))


def _painted(set_name: str, limit: int, draw_size: Callable[[Random], tuple[int, int]]) -> Iterator[Case]:
    phrases = Phrases("heldout")
    for index in range(limit):
        name = f"{set_name}/{index}"
        rng = Random(f"heldout/{name}")
        size = draw_size(rng)
        page, gamma = compose(rng, phrases, *size), rng.uniform(0.75, 1.1)
        yield from _questions(name, rng, paint(page, gamma), _ROTA[index % len(_ROTA)])
        if index % _CHANGE_EVERY == 0:
            before, after, sentence = pair(rng, phrases, page)
            pixels, screen = paint(after, gamma)
            yield Case(f"{name}/pair", (paint(before, gamma)[0], pixels), screen, ask_change(rng, sentence))


def chromium(limit: int) -> Iterator[Case]:
    """Questions about `limit` generated pages with at least two visible elements each."""
    phrases = Phrases("heldout")
    made = index = 0
    with browser() as tab:
        while made < limit:
            name = f"chromium/{index}"
            rng = Random(f"heldout/{name}")
            rendered = render(tab, html_page(rng, phrases))
            index += 1
            if len(rendered[1].elements) >= 2:
                yield from _questions(name, rng, rendered, _ROTA[made % len(_ROTA)])
                made += 1


def handwritten(limit: int) -> Iterator[Case]:
    """Every kind of question about each of the first `limit` pages of `pages/`."""
    with browser() as tab:
        for path in sorted(PAGES.glob("*.html"))[:limit]:
            name = f"handwritten/{path.stem}"
            rendered = render(tab, handwritten_page(path))
            yield from _questions(name, Random(f"heldout/{name}"), rendered, _EVERYTHING)


def handwritten_page(path: Path) -> HtmlPage:
    """A committed page; its viewport is what its own `<meta name="viewport">` says, in pixels."""
    html = path.read_text()
    viewport = re.search(r'<meta name="viewport" content="width=(\d+), height=(\d+)">', html)
    if viewport is None:
        raise ValueError(f'{path} has no <meta name="viewport" content="width=..., height=...">')
    return HtmlPage(html, int(viewport[1]), int(viewport[2]))


SETS: dict[str, tuple[Callable[[int], Iterator[Case]], int]] = {
    "painted": (painted, 500), "small": (small, 200), "chats": (chats, 100),
    "chromium": (chromium, 200), "handwritten": (handwritten, 20),
}  # fmt: skip
"""Each set's maker and its full number of screens."""


def _questions(name: str, rng: Random, rendered: Rendered, tasks: Sequence[Ask]) -> Iterator[Case]:
    """One case for each of `tasks` that the screen has something for."""
    pixels, screen = rendered
    phrases = Phrases("heldout")
    for number, task in enumerate(tasks):
        turns = (task(rng, screen, phrases) for _ in range(_TRIES))
        turn = next((turn for turn in turns if turn is not None), None)
        if turn is not None:
            yield Case(f"{name}/{number}", (pixels,), screen, turn)
