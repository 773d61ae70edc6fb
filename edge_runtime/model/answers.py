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
MAX_TOKENS = 1 << 18
"""Of all answers that are remembered: two megabytes."""


class DrawnAnswers:
    """The latest answers. Safe to use from several threads."""

    def __init__(self, tokenizer: Tokenizer, end_ids: Collection[int]) -> None:
        """`end_ids`: tokens that end an answer, and in a history follow it."""
        self._tokenizer = tokenizer
        self._end_ids = np.array(sorted(end_ids), dtype=np.int64)
        self._lock = threading.Lock()
        self._answers: OrderedDict[tuple[int, bytes], NDArray[np.int64]] = OrderedDict()
        self._num_tokens = 0

    def note(self, prompt_ids: NDArray[np.int64], output_ids: tuple[int, ...], salt: bytes = b"") -> None:
        """Remember that `output_ids` were drawn after `prompt_ids`, in which an image is one token.

        They are found with an equal `salt`: 16 bytes, or none.
        Not with control tokens in it: what comes back as text never becomes structure (decision 50).
        """
        drawn = np.array(output_ids, dtype=np.int64)
        if len(drawn) and drawn[-1] in self._end_ids:
            drawn = drawn[:-1]
        if not len(drawn) or self._has_controls(drawn):
            return
        key = len(prompt_ids), _hash(prompt_ids, salt).digest()
        with self._lock:
            self._num_tokens += len(drawn) - len(self._answers.pop(key, drawn[:0]))
            self._answers[key] = drawn
            while len(self._answers) > MAX_ANSWERS or self._num_tokens > MAX_TOKENS:
                self._num_tokens -= len(self._answers.popitem(last=False)[1])

    def restore(self, ids: NDArray[np.int64], salt: bytes = b"") -> NDArray[np.int64]:
        """`ids` [T] of a prompt, an image being one token, with the answers in it that were drawn here as they were."""
        with self._lock:
            answers = dict(self._answers)
        digest, start = _hash(ids[:0], salt), 0
        for length in sorted({length for length, _ in answers}):
            if length >= len(ids):
                break
            digest.update(ids[start:length].tobytes())
            start = length
            drawn = answers.get((length, digest.digest()))
            if drawn is not None:
                ids = self._with(ids, length, drawn)
        return ids

    def spans(self, ids: NDArray[np.int64], salt: bytes = b"") -> list[tuple[int, int]]:
        """Where in `ids`, which `restore` gave, answers lie that are remembered: start and end of each."""
        with self._lock:
            answers = dict(self._answers)
        found = []
        for length in sorted({length for length, _ in answers if length < len(ids)}):
            drawn = answers.get((length, _hash(ids[:length], salt).digest()))
            if drawn is not None and np.array_equal(ids[length : length + len(drawn)], drawn):
                found.append((length, length + len(drawn)))
        return found

    def _with(self, ids: NDArray[np.int64], start: int, drawn: NDArray[np.int64]) -> NDArray[np.int64]:
        """`ids` with `drawn` from `start` on, if they say the same there: plain text, up to an end token."""
        ends = np.flatnonzero(np.isin(ids[start:], self._end_ids))
        said = ids[start : start + ends[0]] if len(ends) else ids[:0]
        stays = np.array_equal(said, drawn) or self._has_controls(said) or self._bytes(said) != self._bytes(drawn)
        return ids if stays else np.concatenate((ids[:start], drawn, ids[start + len(said) :]))

    def _has_controls(self, ids: NDArray[np.int64]) -> bool:
        """Whether tokens are among them that are matched as whole strings: control tokens, images."""
        return bool(np.isin(ids, self._tokenizer.added_ids).any())

    def _bytes(self, ids: NDArray[np.int64]) -> bytes:
        return self._tokenizer.detokenize(ids.tolist())


def _hash(ids: NDArray[np.int64], salt: bytes) -> hashlib.blake2b:
    return hashlib.blake2b(ids.tobytes(), digest_size=16, salt=salt)
