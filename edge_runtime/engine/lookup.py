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
MAX_MATCH = 16
"""So many are compared; places that agree in all of them are as good as each other."""
_MAX_PLACES = 256
"""So many of the latest places are compared further, where a log says the same again and again."""


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
        last = self._before_wall(ids[: -MAX_MATCH - 1 : -1])  # latest first
        if len(last) < MIN_MATCH:
            return None
        places = np.flatnonzero(ids[MIN_MATCH - 1 : -1] == last[0]) + (MIN_MATCH - 1)
        for back in range(1, MIN_MATCH):
            places = places[ids[places - back] == last[back]]
        if not len(places):
            return None
        places = places[-_MAX_PLACES:]
        earlier = places[:, np.newaxis] - np.arange(len(last))
        equal = (ids[earlier] == last) & (earlier >= 0)
        lengths = np.logical_and.accumulate(equal, axis=1).sum(axis=1)
        best = len(lengths) - 1 - int(np.argmax(lengths[::-1]))
        return Match(int(places[best]) + 1, int(lengths[best]))

    def draft(self, ids: NDArray[np.int64], match: Match, most: int) -> NDArray[np.int64]:
        """At most `most` tokens that follow at `match`; where they run into the end of `ids`, they begin anew.

        For a log that ends in a cycle goes on with it.
        """
        return self._before_wall(np.resize(ids[match.start : match.start + most], most))

    def _before_wall(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """`ids` up to the first wall."""
        return ids[: next((i for i, token_id in enumerate(ids.tolist()) if token_id in self._walls), len(ids))]
