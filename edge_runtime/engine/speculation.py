"""Drafts for one chat: tokens that may come next, run before it is known whether they do.

A draft never changes what is said. Every token is drawn from the logits of its own place; where it is the one that was
drafted, the next place has been computed already. So greedy tokens are those without drafts, and drawn ones have the
model's own distribution.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np
from numpy.typing import NDArray

from edge_runtime.engine.draft_length import MAX_DRAFT, DraftLength, Purse
from edge_runtime.engine.lookup import Lookup
from edge_runtime.engine.run_costs import RunCosts

_PATIENCE = 8
"""After so many runs in vain, drafts are looked for as seldom as `RunCosts.pause` says."""


class Speculation:
    """What all chats of an engine share. Owned by its thread."""

    __slots__ = ("_lookup", "_purse", "costs")

    def __init__(self, walls: Collection[int]) -> None:
        """`walls` as `Lookup` takes them."""
        self.costs = RunCosts()
        """To be told of every run."""
        self._lookup = Lookup(walls)
        self._purse = Purse()

    def drafter(self) -> Drafter:
        """One for a new chat."""
        return Drafter(self._lookup, self.costs, DraftLength(self.costs, self._purse))


class Drafter:
    """What to draft in one chat, and how much of it; learns from what came."""

    __slots__ = ("_costs", "_expected", "_length", "_lookup", "_match_length", "_num_drafted", "_num_then", "_num_vain")

    def __init__(self, lookup: Lookup, costs: RunCosts, length: DraftLength) -> None:
        """`length` is this chat's alone."""
        self._lookup = lookup
        self._costs = costs
        self._length = length
        self._expected: NDArray[np.int64] | None = None  # after the first `_num_then` tokens, whether drafted or not
        self._num_then = 0
        self._match_length = 0
        self._num_drafted = 0
        self._num_vain = 0  # runs since something came of a draft

    @property
    def is_due(self) -> bool:
        """Whether it is worth its while to look for a draft of the next run."""
        return self._num_vain < _PATIENCE or self._num_vain % self._costs.pause == 0

    def draft(
        self,
        ids: NDArray[np.int64],
        most: int,
        num_chats: int,
        num_rows: int,
        fits: Callable[[NDArray[np.int64]], int] = len,
    ) -> NDArray[np.int64]:
        """At most `most` tokens that may follow `ids` [T], all that is certain of the chat by now.

        To be run in the next run of this chat, which has `num_rows` rows of `num_chats` chats without them. `fits`: how
        many of some tokens may come next, one after the other.
        """
        match = self._lookup.find(ids) if most > 0 else None
        if match is None:
            return ids[:0]
        self._num_then, self._num_drafted = len(ids), 0
        self._expected = self._lookup.draft(ids, match, min(most, MAX_DRAFT))
        self._match_length = match.length
        count = self._length.next(match.length, len(self._expected), num_chats, num_rows)
        draft = self._expected[:count]
        draft = draft[: fits(draft)] if count else draft
        self._num_drafted = len(draft)
        return draft

    def learn(self, ids: NDArray[np.int64]) -> None:
        """A run is over, and `costs` has been told; `ids` [T] are those of before and what came of it."""
        self._num_vain += 1
        if self._expected is None:
            self._length.took(0, 0)
            return
        num_hits = 0
        came = ids[self._num_then : self._num_then + len(self._expected)].tolist()
        for token_id, expected in zip(came, self._expected.tolist(), strict=False):
            hit = token_id == expected
            self._length.rates.note(self._match_length + num_hits, hit=hit)
            if not hit:
                break
            num_hits += 1
        num_accepted = min(num_hits, self._num_drafted)
        self._num_vain = 0 if num_accepted else self._num_vain
        self._length.took(self._num_drafted, num_accepted)
        self._expected = None
