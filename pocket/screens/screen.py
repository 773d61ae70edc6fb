"""What is on a screen: elements with boxes and states, and the lines of text they are written with.

Pure data: knows nothing of pixels, fonts or questions. Boxes are `(left, top, right, bottom)` in pixels.
"""

from dataclasses import dataclass, field, replace

Box = tuple[float, float, float, float]
Color = tuple[int, int, int]

KINDS = ("title", "text", "button", "link", "field", "checkbox", "switch", "radio", "tab", "item")
STATES = ("", "disabled", "checked", "unchecked", "on", "off", "selected", "not selected", "empty", "filled")
TOGGLES = {"checkbox": ("checked", "unchecked"), "switch": ("on", "off"), "radio": ("selected", "not selected"),
           "tab": ("selected", "not selected")}  # fmt: skip
ROW = 16  # every line of text sits in one 16-pixel row: one row of vision patches


@dataclass(frozen=True, slots=True)
class Glyph:
    """One character and the pixel position of its middle."""

    char: str
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Element:
    """Something a user can name. `box` holds all of it, `target` the part to click, `glyphs` its visible characters."""

    kind: str
    name: str
    box: Box
    target: Box
    state: str = ""
    value: str = ""
    glyphs: tuple[Glyph, ...] = ()

    @property
    def center(self) -> tuple[float, float]:
        """The middle of what to click, in pixels."""
        left, top, right, bottom = self.target
        return (left + right) / 2, (top + bottom) / 2


@dataclass(frozen=True, slots=True)
class Screen:
    """A whole screen: its size in pixels, multiples of 32, and its elements in reading order."""

    width: int
    height: int
    elements: tuple[Element, ...] = field(default=())

    def point(self, element: Element) -> tuple[int, int]:
        """Where to click `element`, 0-1000 relative to the screen, on a grid of ten."""
        x, y = element.center
        return _grid(x / self.width), _grid(y / self.height)

    def at(self, point: tuple[float, float]) -> Element | None:
        """The element whose target holds a point given in 0-1000 coordinates; the smallest when several do."""
        x, y = point[0] * self.width / 1000, point[1] * self.height / 1000
        hits = [e for e in self.elements if e.target[0] <= x <= e.target[2] and e.target[1] <= y <= e.target[3]]
        return min(hits, key=_area, default=None)

    def named(self, name: str) -> list[Element]:
        """All elements of that name."""
        return [element for element in self.elements if element.name == name]

    def with_element(self, old: Element, new: Element) -> "Screen":
        """The same screen with one element replaced."""
        return replace(self, elements=tuple(new if element is old else element for element in self.elements))


def _grid(fraction: float) -> int:
    return min(990, max(0, round(fraction * 100) * 10))


def _area(element: Element) -> float:
    left, top, right, bottom = element.target
    return (right - left) * (bottom - top)
