"""What a run of the decoder takes, by the number of its rows: learned from those that were. Knows nothing of tokens.

A second row of the same run costs little where reading the weights is what takes the time, and as much as the first
where computing is: it depends on machine, model and flavour, and on the length of the chats.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from statistics import median

import numpy as np
from numpy.typing import NDArray

MAX_ROWS = 48
"""Runs of more rows are not learned from: these are prompts."""
_FIRST_S, _ROW_S = 34e-3, 4.1e-3
"""What is believed before anything was measured: a 2B model on two cores, int4 (38 ms; four rows 51, eight 67)."""
_NUM_SAMPLES = 9
_STALE = 512
"""So many runs after it was last seen, what a number of rows costs is forgotten: chats grow, machines get busy.

Far sooner what was seen once or twice: it may have been a bad moment.
"""
_MAX_SURPRISE = 2.0


@dataclass(slots=True)
class _Seen:
    """The runs of some number of rows: how many there were, when the last one was, and seconds of the last few."""

    last: int = 0
    samples: deque[float] = field(default_factory=lambda: deque(maxlen=_NUM_SAMPLES))
    is_new: bool = True

    @property
    def seconds(self) -> float:
        """What such a run takes; a machine's hiccups only ever make it longer."""
        return min(self.samples) if len(self.samples) < 3 else median(self.samples)

    def is_stale(self, now: int) -> bool:
        """Whether it says nothing any more about run number `now`."""
        return now - self.last > min(_STALE, _STALE >> 4 << len(self.samples))


class RunCosts:
    """Owned by the engine's thread; shared by all its chats."""

    __slots__ = ("_curves", "_num_runs", "_seen", "surprise")

    def __init__(self) -> None:
        self._seen: dict[int, dict[int, _Seen]] = {}  # chats of a run -> rows -> runs
        self._curves: dict[int, NDArray[np.float64]] = {}
        self._num_runs = 0
        self.surprise = 1.0
        """What the last run took, as a multiple of what was expected of it: half to twice."""

    def took(self, num_chats: int, num_rows: int, seconds: float, *, has_prompt: bool = False) -> None:
        """Learn from a run of `num_rows` rows of `num_chats` chats, unless it `has_prompt`, which costs otherwise."""
        self.surprise = 1.0
        if has_prompt or num_rows > MAX_ROWS or seconds <= 0:
            return
        expected = float(self.curve(num_chats)[num_rows])
        self._num_runs += 1
        table = self._seen.setdefault(num_chats, {})
        if self._known(num_chats):
            seconds = min(seconds, _MAX_SURPRISE * expected)  # one bad moment must not count for long
            self.surprise = max(1 / _MAX_SURPRISE, seconds / expected)
        seen = table.setdefault(num_rows, _Seen())
        if not seen.is_new:  # the first of its kind allocates
            seen.samples.append(seconds)
        seen.is_new, seen.last = False, self._num_runs
        self._seen[num_chats] = {rows: one for rows, one in table.items() if not one.is_stale(self._num_runs)}
        self._curves.pop(num_chats, None)

    def most_rows(self, num_chats: int) -> int:
        """How many rows to try: at most twice what is known, so that no machine is asked for what it cannot do."""
        return 2 * max(self._known(num_chats), default=0)

    def curve(self, num_chats: int) -> NDArray[np.float64]:
        """Seconds [`MAX_ROWS` + 1] of a run of so many rows of `num_chats` chats; never falling."""
        curve = self._curves.get(num_chats)
        if curve is None:
            curve = self._curves[num_chats] = _curve(self._known(num_chats))
        return curve

    def _known(self, num_chats: int) -> dict[int, float]:
        seen = self._seen.get(num_chats, {})
        return {rows: seen[rows].seconds for rows in sorted(seen) if seen[rows].samples}


def expected_s(num_rows: NDArray[np.int64] | int) -> NDArray[np.float64]:
    """Seconds of a run of so many rows on a machine of which nothing is known; their ratios are what counts."""
    return np.asarray(_FIRST_S + _ROW_S * num_rows, dtype=np.float64)


def _curve(known: dict[int, float]) -> NDArray[np.float64]:
    """Through what is known; before and behind it as expected, in proportion. More rows are never quicker."""
    rows = np.arange(MAX_ROWS + 1)
    expected = expected_s(rows)
    if not known:
        return expected
    places, seconds = list(known), np.minimum.accumulate(list(known.values())[::-1])[::-1]
    first, last = places[0], places[-1]
    curve = np.interp(rows, places, seconds)
    scale = seconds[0] / expected[first]
    curve[:first] = scale * expected[:first]
    slope = scale * _ROW_S
    if last > first:  # what it was so far, or what was expected: between the two
        slope = (slope + (seconds[-1] - seconds[0]) / (last - first)) / 2
    curve[last + 1 :] = seconds[-1] + slope * (rows[last + 1 :] - last)
    return curve
