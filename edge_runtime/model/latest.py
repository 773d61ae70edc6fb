"""What was drawn after which prompts, lately. Knows no text, no chats."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sized
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

_Drawn = TypeVar("_Drawn", bound=Sized)

Prompt = tuple[int, bytes]
"""Length and digest of a prompt, in which an image is one token."""


class LatestDrawn(Generic[_Drawn]):
    """By prompt, the latest of what was drawn; its length is in tokens. Safe to use from several threads."""

    def __init__(self, max_entries: int, max_tokens: int) -> None:
        self._max_entries = max_entries
        self._max_tokens = max_tokens
        self._lock = threading.Lock()
        self._known: OrderedDict[Prompt, _Drawn] = OrderedDict()
        self._num_tokens = 0

    @property
    def known(self) -> dict[Prompt, _Drawn]:
        """All of it at this moment."""
        with self._lock:
            return dict(self._known)

    def note(self, prompt_ids: NDArray[np.int64], drawn: _Drawn, salt: bytes) -> None:
        """Remember what was drawn after a prompt, in place of what was before."""
        key = len(prompt_ids), prompt_hash(prompt_ids, salt).digest()
        with self._lock:
            before = self._known.pop(key, None)
            self._num_tokens += len(drawn) - (0 if before is None else len(before))
            self._known[key] = drawn
            while len(self._known) > self._max_entries or self._num_tokens > self._max_tokens:
                self._num_tokens -= len(self._known.popitem(last=False)[1])


def prompt_hash(ids: NDArray[np.int64], salt: bytes) -> hashlib.blake2b:
    """What a prompt is found by, as far as `ids` go."""
    return hashlib.blake2b(ids.tobytes(), digest_size=16, salt=salt)
