"""Notices an answer that only repeats itself: the exact repetition of a short cycle of tokens. Knows nothing of text.

A model that was pushed off what it knows ends in such a cycle and leaves it only at `max_tokens`. Exact, so that text
that merely resembles itself (a list, a table, a poem) never counts; and long, so that what is exactly repetitive on
purpose (a rule of dashes, "0000", a row of zeros) does not count either.
"""

from __future__ import annotations

import numpy as np

MAX_PERIOD = 64
"""Tokens of the longest cycle looked for."""
MIN_TOKENS = 256
"""A cycle counts once it covers this many tokens without a break: 256 times the same, 32 times eight tokens."""
MIN_REPEATS = 8
"""And once it was said so often: a cycle of 64 tokens covers 512."""

_PERIODS = np.arange(1, MAX_PERIOD + 1)
_NEEDED = np.maximum(MIN_TOKENS, MIN_REPEATS * _PERIODS) - _PERIODS
"""Per period: how many tokens in a row must equal the one a period before them."""


class RepetitionDetector:
    """Follows the tokens of one answer; a few array operations on 64 numbers a token."""

    __slots__ = ("_equal", "_recent", "repeats")

    def __init__(self) -> None:
        self._recent = np.full(MAX_PERIOD, -1, dtype=np.int64)  # latest first: period p is at index p - 1
        self._equal = np.zeros(MAX_PERIOD, dtype=np.int64)
        self.repeats = False
        """Whether the answer so far ends in a cycle that counts."""

    def feed(self, token_id: int) -> None:
        """Take the next token. Sets `repeats`."""
        self._equal += 1
        self._equal *= self._recent == token_id
        self._recent[1:] = self._recent[:-1]
        self._recent[0] = token_id
        self.repeats = bool((self._equal >= _NEEDED).any())
