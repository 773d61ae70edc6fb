"""What may come next in an answer, looked up: what followed the last few tokens where they stood before.

An agent's answers repeat its earlier ones, names on a page, what it was asked. The whole log is searched at each step,
with two passes over its ids and a look at the places they leave: thirty microseconds at 32,768 tokens, and nothing to
keep. Knows nothing of models, costs or chances.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MIN_MATCH = 2
"""Tokens that must be equal before a place is one to copy from."""
_NONE = -1  # no token
MAX_MATCH = 16
"""So many are compared; places that agree in all of them are as good as each other."""
_MAX_PLACES = 256
"""So many of the latest places are compared further, where a log says the same again and again."""


_BACK = np.arange(1, MAX_MATCH)


class Match(NamedTuple):
    """A place in a log where its last tokens stand already."""

    start: int
    """Index of the token that follows them there."""
    length: int
    """How many are equal, from `MIN_MATCH` to `MAX_MATCH`."""


class Lookup:
    """Finds such places, and copies what follows."""

    __slots__ = ("_walls",)

    def __init__(self, walls: Collection[int]) -> None:
        """`walls`: tokens that are never drafted, and that nothing is compared or copied across.

        Those of images and videos, which mean nothing without the pixels, and those after which nothing comes.
        """
        self._walls = frozenset(walls)

    def find(self, ids: NDArray[np.int64]) -> Match | None:
        """Of the places where the last tokens of `ids` [T] stand before their end, the one that agrees in most of them.

        The latest of these; None where fewer than `MIN_MATCH` agree.
        """
        last = self._before_wall(ids[: -MAX_MATCH - 1 : -1].tolist())  # latest first
        if len(last) < MIN_MATCH:
            return None
        places = np.flatnonzero(ids[1:-1] == last[0])  # of the token before
        places = places[ids[places] == last[1]]
        if not len(places):
            return None
        earlier = places[-_MAX_PLACES:, np.newaxis] - _BACK[: len(last) - 1]
        equal = ids[earlier] == [*last[2:], _NONE]
        equal &= earlier >= 0
        lengths = equal.argmin(axis=1)
        best = len(lengths) - 1 - int(lengths[::-1].argmax())
        return Match(int(earlier[best, 0]) + 3, int(lengths[best]) + 2)

    def draft(self, ids: NDArray[np.int64], match: Match, most: int) -> NDArray[np.int64]:
        """At most `most` tokens that follow at `match`; where they run into the end of `ids`, they begin anew.

        For a log that ends in a cycle goes on with it.
        """
        draft = ids[match.start : match.start + most]
        if len(draft) < most:
            draft = np.resize(draft, most)
        return draft[: len(self._before_wall(draft.tolist()))]

    def _before_wall(self, token_ids: list[int]) -> list[int]:
        """`token_ids` up to the first wall."""
        if self._walls.isdisjoint(token_ids):
            return token_ids
        return token_ids[: next(i for i, token_id in enumerate(token_ids) if token_id in self._walls)]
