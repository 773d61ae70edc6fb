"""What a model wants done on a screen, in one vocabulary over all formats. Knows nothing of how any of them says it."""

from __future__ import annotations

from typing import Literal

import msgspec

from edge_runtime.actions.pixels import pixel
from edge_runtime.errors import BadParameter

Kind = Literal[
    "click", "double_click", "triple_click", "right_click", "middle_click", "long_press", "move", "drag", "swipe",
    "scroll", "type", "press", "key_down", "key_up", "wait", "open", "ask_user", "answer", "done", "failed", "nothing",
    "refuse", "locate",
]  # fmt: skip
"""done, failed: the task is over; nothing: this request needs no action; refuse: what was asked for is not there;
locate: no action, but the place that was asked for. docs/actions.md tells the others."""
Direction = Literal["up", "down", "left", "right"]
Point = tuple[float, float]


class Action(msgspec.Struct, frozen=True, omit_defaults=True):
    """One action. What its format leaves open, or its model left out, is None or empty."""

    kind: Kind
    point: Point | None = None
    """(x, y): where. None: where the pointer is, or the format has no place for it."""
    point2: Point | None = None
    """(x, y): where a drag or a swipe ends."""
    text: str | None = None
    """What to type, to open, to ask or to answer; what is reported at the end."""
    keys: tuple[str, ...] = ()
    """Pressed together; a phone's own are back, home, menu, recent and enter."""
    direction: Direction | None = None
    """scroll: what comes into view lies there; swipe: the finger goes there."""
    amount: float | None = None
    """scroll: how far, in the format's own steps; never negative."""
    seconds: float | None = None
    """How long to wait or to hold."""
    divisor: int | None = None
    """Points run from 0 to this across and down the image; None: they are pixels."""

    def in_pixels(self, width: int, height: int) -> Action:
        """The same action with its points in pixels of the image it is about, which is so large.

        Raises `BadParameter` where they are pixels already, and for an image without pixels.
        """
        if width < 1 or height < 1:
            raise BadParameter(f"the image is {width}x{height} pixels; wanted one that has some")
        if self.point is None and self.point2 is None:
            return msgspec.structs.replace(self, divisor=None)
        divisor = self.divisor
        if divisor is None:
            raise BadParameter(f"the points of {self!r:.200} are pixels already")

        def place(point: Point | None) -> Point | None:
            return point and (pixel(point[0], width, divisor), pixel(point[1], height, divisor))

        return msgspec.structs.replace(self, point=place(self.point), point2=place(self.point2), divisor=None)
