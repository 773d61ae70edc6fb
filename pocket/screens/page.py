"""A page before it is drawn: a theme and widgets placed on a grid of 16-pixel text rows.

Templates make a `Page`; the painter turns it into pixels and a `Screen`. Nothing is drawn here.
"""

from dataclasses import dataclass, replace
from random import Random

from pocket.screens.fonts import FAMILIES, Face
from pocket.screens.screen import Color


@dataclass(frozen=True, slots=True)
class Theme:
    """Looks shared by a whole page. `drop` moves every baseline by -1, 0 or 1 pixels.

    `accent` fills shapes under `on_accent`; `accent_ink` is the same colour made readable as text on `paper`.
    """

    face: Face
    ink: Color
    paper: Color
    panel: Color
    line: Color
    accent: Color
    on_accent: Color
    accent_ink: Color
    muted: Color
    radius: int
    drop: int
    filled_buttons: bool


@dataclass(frozen=True, slots=True)
class Widget:
    """One element to draw: its text row, left edge and width in pixels. `variant` picks among drawings of a kind."""

    kind: str
    name: str
    row: int
    x: float
    width: float
    state: str = ""
    value: str = ""
    variant: int = 0


@dataclass(frozen=True, slots=True)
class Panel:
    """A decorative rectangle behind widgets: pixels, and whether it is a bar in the accent colour."""

    box: tuple[float, float, float, float]
    accent: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """Everything the painter needs. Sizes are pixels, multiples of 32."""

    width: int
    height: int
    theme: Theme
    widgets: tuple[Widget, ...]
    panels: tuple[Panel, ...] = ()

    def with_widgets(self, widgets: list[Widget]) -> "Page":
        """The same page with other widgets."""
        return replace(self, widgets=tuple(widgets))


def random_theme(rng: Random) -> Theme:
    """Light (mostly) or dark colours, one typeface, one size."""
    family = rng.randrange(len(FAMILIES))
    face = Face(family, False, rng.choice(FAMILIES[family].sizes))
    accent: Color = (rng.randint(0, 90), rng.randint(40, 110), rng.randint(90, 220))
    if rng.random() < 0.4:
        accent = rng.choice(((190, 30, 45), (20, 120, 70), (120, 50, 160), (40, 40, 50), (200, 80, 0), (0, 110, 120)))
    if rng.random() < 0.3:
        base = rng.randint(12, 44)
        paper = (base, base, base + rng.randint(0, 12))
        panel = tuple(min(255, c + rng.randint(8, 24)) for c in paper)
        level = rng.randint(205, 255)
        ink, muted = (level, level, level), (150, 152, 160)
    else:
        base = rng.randint(232, 255)
        paper = (base, base, min(255, base + rng.randint(0, 6)))
        panel = (255, 255, 255) if rng.random() < 0.6 else tuple(max(0, c - rng.randint(4, 18)) for c in paper)
        level = rng.randint(0, 60)
        ink, muted = (level, level, level + rng.randint(0, 20)), (140, 142, 150)
    line = tuple((2 * p + m) // 3 for p, m in zip(paper, muted, strict=True))
    return Theme(
        face, ink, paper, _color(panel), _color(line), accent, (255, 255, 255), _readable(accent, paper), muted,
        rng.choice((0, 3, 5, 8)), rng.choice((-1, 0, 0, 1)), rng.random() < 0.6,
    )  # fmt: skip


def _readable(accent: Color, paper: Color) -> Color:
    """The accent colour as text on `paper`: itself on a light page, halfway or more to white on a dark one."""
    if sum(paper) > 3 * 128:
        return accent
    share = 0.5 if sum(accent) > 3 * 90 else 0.65
    red, green, blue = (round(level + (255 - level) * share) for level in accent)
    return red, green, blue


def _color(values: tuple[int, ...]) -> Color:
    return values[0], values[1], values[2]
