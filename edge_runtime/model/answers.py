"""Answers as they were drawn, for prompts that bring them back as text. Knows nothing of chats or of the cache.

A model may draw other tokens for a text than the tokenizer makes of it, and a history with the tokenizer's would share
nothing with what is in the cache from there on. So an answer's tokens are remembered by the prompt they follow.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from edge_runtime.model.tokenizer import Tokenizer

MAX_ANSWERS = 1024


class DrawnAnswers:
    """The latest answers. Safe to use from several threads."""

    def __init__(self, tokenizer: Tokenizer, end_ids: Collection[int]) -> None:
        """`end_ids`: tokens that end an answer, and in a history follow it."""
        self._tokenizer = tokenizer
        self._end_ids = np.array(sorted(end_ids), dtype=np.int64)
        self._lock = threading.Lock()
        self._answers: OrderedDict[tuple[int, bytes], NDArray[np.int64]] = OrderedDict()

    def note(self, prompt_ids: NDArray[np.int64], output_ids: tuple[int, ...]) -> None:
        """Remember that `output_ids` were drawn after `prompt_ids`, in which an image is one token.

        Not with control tokens in it: what comes back as text never becomes structure (decision 50).
        """
        drawn = output_ids[:-1] if output_ids and output_ids[-1] in self._end_ids else output_ids
        if not drawn or not all(self._tokenizer.detokenize([token]) for token in drawn):
            return
        with self._lock:
            self._answers[_key(prompt_ids)] = np.array(drawn, dtype=np.int64)
            self._answers.move_to_end(_key(prompt_ids))
            while len(self._answers) > MAX_ANSWERS:
                self._answers.popitem(last=False)

    def restore(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """`ids` [T] of a prompt, an image being one token, with the answers in it that were drawn here as they were."""
        with self._lock:
            lengths = sorted({length for length, _ in self._answers})
        for length in lengths:
            if length >= len(ids):
                break
            with self._lock:
                drawn = self._answers.get(_key(ids[:length]))
            if drawn is None:
                continue
            ends = np.flatnonzero(np.isin(ids[length:], self._end_ids))
            said = ids[length : length + ends[0]] if len(ends) else ids[:0]
            if not np.array_equal(said, drawn) and self._bytes(said) == self._bytes(drawn):
                ids = np.concatenate((ids[:length], drawn, ids[length + len(said) :]))
        return ids

    def _bytes(self, ids: NDArray[np.int64]) -> bytes:
        return self._tokenizer.detokenize(ids.tolist())


def _key(ids: NDArray[np.int64]) -> tuple[int, bytes]:
    return len(ids), hashlib.blake2b(ids.tobytes(), digest_size=16).digest()
