"""How many tokens to draft, so that it is worth its time and never costs much of it.

Two things are known without any trial. What a run of more rows takes is in `run_costs.py`. How often what was looked up
comes true shows at every token that is drawn, drafted or not: kept by the length of the match, for the longer it is,
the likelier it goes on. So the draft is the one with the most tokens a second to be expected, which is none where
matches lead nowhere, and many at the moment a long one comes up.

Should that be wrong, a purse bounds what it can cost: drafts may lose a sixtieth of the time, and what drafts have
gained. Knows nothing of logs, graphs or clocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from edge_runtime.engine.lookup import MAX_MATCH, MIN_MATCH
from edge_runtime.engine.run_costs import MAX_ROWS, RunCosts, expected_s

MAX_DRAFT = 16
"""Longer ones gain next to nothing: the chance that all of one comes true falls, and every row has its price."""
_RATES = {2: 0.35, 3: 0.5, 4: 0.6, 6: 0.65, 8: 0.7, 12: 0.85, 16: 0.9}
"""Of a match of at least so many tokens: how often it goes on, before anything of the answer is known (decision 75)."""
_RATES_WEIGH = 3.0
"""As so many tokens."""
_FORGETS = 0.97
"""What a token weighs after the next one with a match of its length."""

_MIN_GAIN = 0.01
"""Drafts that promise less are not worth their noise."""
_MIN_CHANCE = 0.02
"""What is less likely to come true is not looked at."""


class HitRates:
    """How often a match of some length went on with the token it had before. Of one answer."""

    __slots__ = ("_hits", "_tries")

    def __init__(self) -> None:
        self._hits = {length: rate * _RATES_WEIGH for length, rate in _RATES.items()}
        self._tries = dict.fromkeys(_RATES, _RATES_WEIGH)

    def note(self, length: int, *, hit: bool) -> None:
        """Count the token after a match of `length`."""
        kind = _KINDS[min(length, MAX_MATCH)]
        prior = _RATES[kind] * _RATES_WEIGH
        self._hits[kind] = prior + _FORGETS * (self._hits[kind] - prior) + hit
        self._tries[kind] = _RATES_WEIGH + _FORGETS * (self._tries[kind] - _RATES_WEIGH) + 1

    def rate(self, length: int) -> float:
        """The chance that a match of `length` goes on."""
        kind = _KINDS[min(length, MAX_MATCH)]
        return self._hits[kind] / self._tries[kind]


_KINDS = {length: max(kind for kind in _RATES if kind <= length) for length in range(MIN_MATCH, MAX_MATCH + 1)}


@dataclass(slots=True)
class Purse:
    """What drafts may lose, in runs without any; one for all chats of an engine."""

    amount: float = 0.35
    per_run: ClassVar[float] = 0.015
    most: ClassVar[float] = 2.0
    """A long draft's loss, and not much more: what one answer gained another can lose."""

    def settle(self, change: float) -> None:
        """After a chat's run, which gained or lost so much."""
        self.amount = min(self.most, self.amount + self.per_run + change)


class DraftLength:
    """Decides for one chat. Its answers follow from what it was told and what runs took."""

    __slots__ = ("_costs", "_lost", "_purse", "rates")

    def __init__(self, costs: RunCosts, purse: Purse) -> None:
        """`costs` and `purse` of the engine."""
        self.rates = HitRates()
        self._costs = costs
        self._purse = purse
        self._lost = 0.0  # what the draft that is being run loses if nothing of it comes true

    def next(self, match_length: int, most: int, num_chats: int, num_rows: int) -> int:
        """How many of `most` tokens after a match of `match_length` to run in the next run.

        That has `num_rows` rows of `num_chats` chats without them. Of all chats counts what their speeds, multiplied,
        come to: a draft slows down those beside it.
        """
        best, best_speed, chance, tokens = 0, 1 + _MIN_GAIN, 1.0, 1.0
        self._lost = 0.0
        for count, ratio in enumerate(self._ratios(num_chats, num_rows, min(most, MAX_DRAFT)), 1):
            chance *= self.rates.rate(match_length + count - 1)
            lost = num_chats * (ratio - 1)
            if lost > self._purse.amount or chance < _MIN_CHANCE:
                break
            tokens += chance
            speed = tokens / ratio**num_chats
            if speed > best_speed:
                best, best_speed, self._lost = count, speed, lost
        return best

    def took(self, num_drafted: int, num_accepted: int) -> None:
        """The run is over, and `RunCosts` has been told: so many tokens of its draft came true."""
        lost = (1 + self._lost) * self._costs.surprise - 1 if num_drafted else 0.0
        self._purse.settle(num_accepted - lost)

    def _ratios(self, num_chats: int, num_rows: int, most: int) -> Iterator[float]:
        """What a run takes with 1, 2, ... rows more, as multiples of what it takes without."""
        if num_rows + most > MAX_ROWS:  # beside a prompt
            base = expected_s(num_rows)
            return (expected_s(num_rows + count) / base for count in range(1, most + 1))
        base, *more = self._costs.curve(num_chats)[num_rows : num_rows + most + 1] or [1.0]
        return (seconds / base for seconds in more)
