"""What a run of the decoder takes, by the number of its rows: learned from those that were. Knows nothing of tokens.

A second row of the same run costs little where reading the weights is what takes the time, and as much as the first
where computing is: it depends on machine, model and flavour, and on the length of the chats.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from itertools import pairwise

MAX_ROWS = 48
"""Runs of more rows are not learned from: these are prompts."""
_FIRST_S, _ROW_S = 34e-3, 4.1e-3
"""What is believed before anything was measured: a 2B model on two cores, int4 (38 ms; four rows 51, eight 67)."""
_NUM_SAMPLES = 9
_STALE = 512
"""So many runs after it was last seen, what a number of rows costs is forgotten: chats grow, machines get busy.

Far sooner what was seen once or twice: it may have been a bad moment.
"""
_REFRESH = 16
"""So many runs later what is known is drawn up anew; a new number of rows is at once."""
_MAX_SURPRISE = 2.0
_LOOK_S = 120e-6
"""Looking for a draft, and learning what came of it; what Python takes while other programs' data fills its cache."""
_MAX_PAUSE = 16


@dataclass(slots=True)
class _Seen:
    """The runs of some number of rows: when the last one was, and seconds of the last few."""

    last: int = 0
    samples: deque[float] = field(default_factory=lambda: deque(maxlen=_NUM_SAMPLES))
    is_new: bool = True

    @property
    def seconds(self) -> float:
        """What such a run takes; a machine's hiccups only ever make it longer."""
        return sorted(self.samples)[len(self.samples) // 2 if len(self.samples) > 2 else 0]

    def is_stale(self, now: int) -> bool:
        """Whether it says nothing any more about run number `now`."""
        return now - self.last > min(_STALE, _STALE >> 4 << len(self.samples))


@dataclass(slots=True)
class _Table:
    """The runs of some number of chats, by their rows."""

    seen: dict[int, _Seen] = field(default_factory=dict)
    num_runs: int = 0
    most_known: int = 0
    """Rows."""
    curve: list[float] = field(default_factory=lambda: _curve({}))

    def took(self, num_rows: int, seconds: float) -> None:
        """Count a run."""
        self.num_runs += 1
        seen = self.seen.setdefault(num_rows, _Seen())
        if not seen.is_new:  # the first of its kind allocates
            seen.samples.append(seconds)
        seen.is_new, seen.last = False, self.num_runs
        if self.num_runs % _REFRESH == 0 or len(seen.samples) < 4:
            self.seen = {rows: one for rows, one in self.seen.items() if not one.is_stale(self.num_runs)}
            known = {rows: self.seen[rows].seconds for rows in sorted(self.seen) if self.seen[rows].samples}
            self.most_known, self.curve = max(known, default=0), _curve(known)


class RunCosts:
    """Owned by the engine's thread; shared by all its chats."""

    __slots__ = ("_tables", "pause", "surprise")

    def __init__(self) -> None:
        self._tables: dict[int, _Table] = {}  # by the chats of a run
        self.surprise = 1.0
        """What the last run took, as a multiple of what was expected of it: half to twice."""
        self.pause = 1
        """Looking for a draft at every so many runs takes a hundredth of the time."""

    def took(self, num_chats: int, num_rows: int, seconds: float, *, has_prompt: bool = False) -> None:
        """Learn from a run of `num_rows` rows of `num_chats` chats, unless it `has_prompt`, which costs otherwise."""
        self.surprise = 1.0
        if has_prompt or num_rows > MAX_ROWS or seconds <= 0:
            return
        table = self._tables.setdefault(num_chats, _Table())
        if table.most_known:
            expected = table.curve[num_rows]
            seconds = min(seconds, _MAX_SURPRISE * expected)  # one bad moment must not count for long
            self.surprise = max(1 / _MAX_SURPRISE, seconds / expected)
        table.took(num_rows, seconds)
        self.pause = max(1, min(_MAX_PAUSE, round(100 * _LOOK_S / table.curve[num_chats])))

    def curve(self, num_chats: int) -> list[float]:
        """Seconds of a run of 0, 1, 2, ... rows of `num_chats` chats; never falling.

        It goes as far as may be tried: to twice what is known, so that no machine is asked for what it cannot do.
        """
        table = self._tables.get(num_chats)
        return [] if table is None else table.curve[: 2 * table.most_known + 1]


def expected_s(num_rows: int) -> float:
    """Seconds of a run of so many rows on a machine of which nothing is known; their ratios are what counts."""
    return _FIRST_S + _ROW_S * num_rows


def _curve(known: dict[int, float]) -> list[float]:
    """Through what is known, rows in order; before and behind it as expected, in proportion. Never falling."""
    if not known:
        return [expected_s(rows) for rows in range(MAX_ROWS + 1)]
    quickest, best = known.copy(), float("inf")
    for rows in reversed(known):
        best = quickest[rows] = min(best, known[rows])  # more rows are never quicker
    places = list(quickest.items())
    (first, first_s), (last, last_s) = places[0], places[-1]
    scale = first_s / expected_s(first)
    curve = [scale * expected_s(rows) for rows in range(first + 1)]
    for (low, low_s), (high, high_s) in pairwise(places):
        step = (high_s - low_s) / (high - low)
        curve += [low_s + step * count for count in range(1, high - low + 1)]
    slope = scale * _ROW_S
    if last > first:  # what it was so far, or what was expected: between the two
        slope = (slope + (last_s - first_s) / (last - first)) / 2
    return curve + [last_s + slope * count for count in range(1, MAX_ROWS - last + 1)]
