"""Moves a whole screen a few pixels down, so that text need not keep to the 16-pixel rows it was laid out on."""

from dataclasses import replace

import numpy as np

from pocket.screens.archive import Rendered
from pocket.screens.screen import Box, Element, Screen

_HIDDEN = 3  # an element that loses more pixels than this at the bottom is no longer on the screen


def room_below(screen: Screen) -> int:
    """How far a screen can move down before it loses an element."""
    lowest = max((element.box[3] for element in screen.elements), default=0.0)
    return max(0, int(screen.height + _HIDDEN - lowest))


def shift_down(rendered: Rendered, pixels_down: int) -> Rendered:
    """The screen moved down: its top row is repeated above, and what leaves at the bottom is gone."""
    pixels, screen = rendered
    if pixels_down == 0:
        return rendered
    if pixels.size:
        top = np.repeat(pixels[:1], pixels_down, axis=0)
        pixels = np.ascontiguousarray(np.concatenate((top, pixels[:-pixels_down])))
    moved = (_moved(element, pixels_down) for element in screen.elements)
    kept = tuple(element for element in moved if element.box[3] <= screen.height + _HIDDEN)
    return pixels, Screen(screen.width, screen.height, kept)


def _moved(element: Element, down: int) -> Element:
    glyphs = tuple(replace(glyph, y=glyph.y + down) for glyph in element.glyphs)
    return replace(element, box=_lower(element.box, down), target=_lower(element.target, down), glyphs=glyphs)


def _lower(box: Box, down: int) -> Box:
    return box[0], box[1] + down, box[2], box[3] + down
