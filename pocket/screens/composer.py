"""`Composer` puts widgets on a page: names and values that fit, never a name twice. Knows nothing of layouts."""

from dataclasses import replace
from random import Random

from pocket.screens.fonts import text_width
from pocket.screens.page import Page, Panel, Widget, random_theme
from pocket.screens.screen import ROW, TOGGLES
from pocket.screens.words import Phrases


class Composer:
    """Collects widgets of one page. Mutates itself and the random generator it was given; names never repeat."""

    def __init__(self, rng: Random, phrases: Phrases, width: int, height: int) -> None:
        self.rng, self.phrases = rng, phrases
        self.width, self.height = width, height
        self.rows = height // ROW
        self.theme = random_theme(rng)
        self.widgets: list[Widget] = []
        self.panels: list[Panel] = []
        self._names: set[str] = set()

    def name(self, room: float, bold: bool = False) -> str:
        """A new name no wider than `room` pixels."""
        face = replace(self.theme.face, bold=bold)
        for attempt in range(40):
            name = self.phrases.name(self.rng, 2 if attempt < 12 else 1)
            key = name.lower()
            if key not in self._names and text_width(face, name) <= room:
                self._names.add(key)
                return name
        return ""

    def value(self, room: float) -> str:
        """A field's content no wider than `room`."""
        for _ in range(20):
            value = self.phrases.value(self.rng)
            if text_width(self.theme.face, value) <= room:
                return value
        return self.phrases.value(self.rng, max_length=3)

    def add(self, kind: str, row: int, x: float, width: float) -> int:
        """Places one widget of random name and state; returns the rows it takes (0 when nothing fitted)."""
        rng, variant = self.rng, self.rng.randrange(4)
        state, value = "", ""
        rows = 1
        room = width - {"button": 16, "checkbox": 24, "radio": 24, "switch": 40, "tab": 10, "item": 14}.get(kind, 2)
        if kind in TOGGLES:
            state = rng.choice(TOGGLES[kind])
        elif kind == "button":
            state = "disabled" if rng.random() < 0.12 else ""
        elif kind == "field":
            above = variant < 2
            rows = 3 if above else 1
            inner = width - 14 if above else width / 2 - 14
            value = self.value(inner) if rng.random() < 0.7 else ""
            state = "filled" if value else "empty"
            room = width if above else width / 2 - 8
        elif kind == "item" and rng.random() < 0.6:
            value = self.phrases.price(rng) if rng.random() < 0.5 else self.value(width * 0.4)
            room -= text_width(self.theme.face, value) + 10
        elif kind == "card":
            kind, variant, rows = "item", 7, 2
            value = self.phrases.price(rng) if rng.random() < 0.6 else self.value(room - 16)
            room -= 14
        name = self.name(room, bold=kind == "title" or variant == 7)
        if not name or row < 0 or row + rows > self.rows:
            return 0
        self.widgets.append(Widget(kind, name, row, x, width, state, value, variant))
        return rows

    def page(self) -> Page:
        """The finished page."""
        return Page(self.width, self.height, self.theme, tuple(self.widgets), tuple(self.panels))
