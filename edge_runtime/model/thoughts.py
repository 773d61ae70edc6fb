"""Thoughts as they were drawn: what a template leaves out of a history, for a log from which they are dropped.

Nothing of this comes from a text: a thought is known because it was drawn here (decisions 50 and 71).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_runtime.model.latest import LatestDrawn, Prompt
from edge_runtime.model.tokenizer import Tokenizer

MAX_THOUGHTS = 1024
MAX_THOUGHT_TOKENS = 1 << 18
"""Of all thoughts that are remembered, and their answers: two megabytes."""


@dataclass(frozen=True, slots=True, eq=False)
class Thought:
    """What was drawn before an answer, and the answer."""

    thought: NDArray[np.int64]
    """From `<think>` to `</think>`, and the newlines that follow."""
    answer: NDArray[np.int64]

    def __len__(self) -> int:
        """Tokens of both."""
        return len(self.thought) + len(self.answer)


@dataclass(frozen=True, slots=True)
class DroppedThought:
    """Where a thought stands in a prompt, and the drop that it left in."""

    start: int
    stop: int
    number: int


class DrawnThoughts:
    """The latest thoughts. Safe to use from several threads."""

    def __init__(self, tokenizer: Tokenizer, end_ids: Collection[int], think_ids: tuple[int, int] | None) -> None:
        """`think_ids`: `<think>` and `</think>`; without them nothing is ever remembered."""
        self._tokenizer = tokenizer
        self._end_ids = end_ids
        self._think_ids = think_ids
        self._latest: LatestDrawn[Thought] = LatestDrawn(MAX_THOUGHTS, MAX_THOUGHT_TOKENS)

    @property
    def known(self) -> dict[Prompt, Thought]:
        """By the prompt before them."""
        return self._latest.known

    def note(self, prompt_ids: NDArray[np.int64], drawn: NDArray[np.int64], salt: bytes) -> None:
        """Remember what was drawn after a prompt, if it is a thought and an answer.

        It is found after the prompt without its open `<think>`: in a history there is none.
        """
        if self._think_ids is None:
            return
        opens = np.flatnonzero(prompt_ids == self._think_ids[0])
        is_open = len(opens) and not np.isin(prompt_ids[opens[-1] :], (*self._end_ids, self._think_ids[1])).any()
        start = int(opens[-1]) if is_open else len(prompt_ids)
        found = self._split(np.concatenate((prompt_ids[start:], drawn)), self._think_ids)
        if found is None:
            return
        self._latest.note(prompt_ids[:start], found, salt)

    def _split(self, drawn: NDArray[np.int64], think_ids: tuple[int, int]) -> Thought | None:
        """A thought and its answer, of what was drawn from `<think>` on; None for anything else."""
        ends = np.flatnonzero(drawn == think_ids[1])
        if not len(drawn) or drawn[0] != think_ids[0] or len(ends) != 1:
            return None
        stop = int(ends[0]) + 1
        if np.isin(np.concatenate((drawn[1 : stop - 1], drawn[stop:])), self._tokenizer.added_ids).any():
            return None
        while stop < len(drawn) and not self._tokenizer.detokenize([int(drawn[stop])]).strip(b"\n"):
            stop += 1
        return Thought(drawn[:stop], drawn[stop:]) if stop < len(drawn) else None
