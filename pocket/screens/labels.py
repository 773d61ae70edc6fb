"""Dense labels: for every 32x32 token of a screen, which characters lie in it and what element it belongs to.

A token has 16 slots: 2 rows of 16 pixels by 8 columns of 4. A slot holds the character whose middle lies in it.
Tokens are numbered row by row. These labels feed throw-away training losses; the shipped model never sees them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pocket.screens.fonts import CHARACTERS
from pocket.screens.screen import KINDS, ROW, STATES, Element, Glyph, Screen

TOKEN = 32  # pixels per side of one token of the language model
SLOTS = 16
COLUMNS = 8  # slots per text row of a token
NUM_CHARS = len(CHARACTERS) + 1  # 0 is "nothing here"
NUM_PLACE = 14  # features of one coordinate
_CODE = {char: index + 1 for index, char in enumerate(CHARACTERS)}


@dataclass(frozen=True, slots=True)
class DenseLabels:
    """`chars` int64 [tokens, 16]; `kind`, `state` int64 [tokens], kind 0 is none; `place` float32 [tokens, 28]."""

    chars: NDArray[np.int64]
    kind: NDArray[np.int64]
    state: NDArray[np.int64]
    place: NDArray[np.float32]


def dense_labels(screen: Screen) -> DenseLabels:
    """Labels of a screen. A token that two elements share belongs to the one with more characters in it."""
    wide, high = screen.width // TOKEN, screen.height // TOKEN
    slots = np.zeros((high * 2, wide * COLUMNS), np.int64)  # the whole screen as text rows of 4-pixel slots
    kind = np.zeros((high, wide), np.int64)
    state = np.zeros((high, wide), np.int64)
    place = np.zeros((high, wide, 2 * NUM_PLACE), np.float32)
    claim = np.zeros((high, wide), np.float32)
    for element in screen.elements:
        share = _cover(element, wide, high)
        for glyph, (row, column) in zip(element.glyphs, cells(element.glyphs), strict=True):
            if 0 <= row < slots.shape[0] and 0 <= column < slots.shape[1]:
                slots[row, column] = _CODE.get(glyph.char, 0)
                share[row // 2, column // COLUMNS] += 1
        mine = share > claim
        claim[mine] = share[mine]
        kind[mine] = KINDS.index(element.kind) + 1
        state[mine] = STATES.index(element.state)
        x, y = screen.point(element)
        place[mine] = np.concatenate((place_features(x), place_features(y)))
    chars = slots.reshape(high, 2, wide, COLUMNS).transpose(0, 2, 1, 3).reshape(high * wide, SLOTS)
    return DenseLabels(chars, kind.ravel(), state.ravel(), place.reshape(high * wide, -1))


def cells(glyphs: Sequence[Glyph]) -> list[tuple[int, int]]:
    """Text row and 4-pixel column of each character; of two thin letters in one slot the later one moves on."""
    found: list[tuple[int, int]] = []
    last_row, last_column = -1, -1
    for glyph in glyphs:
        row, column = int(glyph.y // ROW), int(glyph.x // (TOKEN // COLUMNS))
        if row == last_row and column <= last_column:
            column = last_column + 1
        last_row, last_column = row, column
        found.append((row, column))
    return found


def place_features(coordinate: float) -> NDArray[np.float32]:
    """A coordinate in 0-1000 so that its decimal digits are nearly linear in it and near places look alike; [14].

    Ten triangles around the middle of each hundred, then the angle of a turn every hundred and every two hundred.
    """
    triangles = np.maximum(0, 1 - np.abs(coordinate - np.arange(50, 1000, 100)) / 100)
    angles = 2 * np.pi * coordinate / np.array([100, 200])
    return np.concatenate((triangles, np.sin(angles), np.cos(angles))).astype(np.float32)


def _cover(element: Element, wide: int, high: int) -> NDArray[np.float32]:
    """How much of each token the element's box covers, 0-1, where it is more than a sixth."""
    left, top, right, bottom = (edge / TOKEN for edge in element.box)
    across = np.clip(np.minimum(np.arange(wide) + 1, right) - np.maximum(np.arange(wide), left), 0, 1)
    down = np.clip(np.minimum(np.arange(high) + 1, bottom) - np.maximum(np.arange(high), top), 0, 1)
    share = np.outer(down, across).astype(np.float32)
    return np.where(share > 1 / 6, share, 0).astype(np.float32)
