"""The portable flavour's KV cache: one buffer per chat and layer, past and present the same memory. Knows no memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import InternalError
from edge_runtime.model.kv_cache import KVLease, RowSource

Buffers = TypeVar("Buffers")


class ContiguousLease(KVLease, Generic[Buffers]):
    """One chat's own buffers, each as long as its capacity. `buffers` is whatever the cache was told to allocate."""

    __slots__ = ("_cache", "_kept")

    def __init__(self, cache: ContiguousKVCache[Buffers], kept: _Kept[Buffers]) -> None:
        super().__init__(kept.capacity, cache.block_size, len(kept.keys))
        self._cache = cache
        self._kept: _Kept[Buffers] | None = kept

    @property
    def buffers(self) -> Buffers:
        """The memory. Raises `InternalError` after `free`."""
        if self._kept is None:
            raise InternalError("a freed KV lease was used")
        return self._kept.buffers

    def _publish(self, keys: Sequence[bytes]) -> None:
        """They are found when the lease has been freed."""
        if self._kept is not None:
            self._kept = replace(self._kept, keys=tuple(keys))

    def free(self) -> None:
        """Give the room back. Idempotent; the lease is dead afterwards."""
        if self._kept is not None:
            self._cache.give_back(self._kept)
            self._kept = None
            self._length = 0


@dataclass(frozen=True, slots=True, eq=False)
class _Kept(Generic[Buffers]):
    """Buffers that may be used again."""

    buffers: Buffers
    capacity: int
    """Tokens that fit, all of which may have been written."""
    keys: tuple[bytes, ...] = ()
    """What the first blocks hold."""


class ContiguousKVCache(Generic[Buffers]):
    """A budget of tokens; each lease takes its whole length from it at once and has buffers of its own.

    Freed buffers are kept, with what their chats have committed, for as long as nobody needs the room. A lease that
    begins with all of their blocks takes them over, if it is about as long; else it gets a copy of what they have in
    common, where there is room for both. Rows of a source are copied likewise; without room for both they are moved.
    """

    def __init__(
        self,
        max_tokens: int,
        block_size: int,
        allocate: Callable[[int], Buffers],
        copy: Callable[[Buffers, Buffers, NDArray[np.int64]], None],
    ) -> None:
        """`allocate(num_tokens)` makes the buffers of one lease; `copy` writes rows of one to the start of another.

        The rows rise, and the two may be the same.
        """
        self.max_tokens = max_tokens
        """Tokens that fit when nothing is leased."""
        self.block_size = block_size
        self.free_tokens = max_tokens
        """Tokens that can be leased now."""
        self._allocate = allocate
        self._copy = copy
        self._kept: list[_Kept[Buffers]] = []  # the most recent last

    @property
    def kept_tokens(self) -> int:
        """Those of them that would be found again."""
        return sum(len(kept.keys) for kept in self._kept) * self.block_size

    def lease(
        self, num_tokens: int, keys: Sequence[bytes] = (), sources: Iterable[RowSource] = ()
    ) -> ContiguousLease[Buffers] | None:
        """As `KVCache.lease`; of kept buffers, those that have most in common."""
        if num_tokens < 1 or len(keys) * self.block_size >= max(num_tokens, 1):
            raise InternalError(f"a KV lease of {num_tokens} tokens was asked for, {len(keys)} blocks of it by key")
        if num_tokens > self.free_tokens:
            return None
        best = self._best(num_tokens, keys)
        num_found = _num_common(keys, best.keys) * self.block_size if best else 0
        for rows, source in sorted(map(self._found, sources), key=lambda found: -len(found[0])):
            if source is not None and len(rows) > num_found and (copied := self._room_beside(source, num_tokens)):
                self._copy(source.buffers, copied.buffers, rows)
                lease = self._given(copied)
                lease.begin(len(rows), keys)
                return lease
        if best is not None and _goes_on(best, num_tokens, keys):
            self._kept.remove(best)
            kept = best
        else:
            common = keys[: _num_common(keys, best.keys)] if best else ()
            self._make_room(num_tokens, spared=best)
            kept = _Kept(self._allocate(num_tokens), num_tokens, tuple(common))
            if best is not None:
                self._copy(best.buffers, kept.buffers, np.arange(num_found))
        return self._given(kept)

    def _given(self, kept: _Kept[Buffers]) -> ContiguousLease[Buffers]:
        self.free_tokens -= kept.capacity
        self._make_room()
        return ContiguousLease(self, kept)

    def find(self, source: RowSource) -> tuple[ContiguousLease[Buffers], int] | None:
        """As `KVCache.find`; of kept buffers, those that have most in common."""
        rows, best = self._found(source)
        if best is None or not len(rows):
            return None
        self._kept.remove(best)
        self.free_tokens -= best.capacity
        return ContiguousLease(self, best), len(rows)

    def _found(self, source: RowSource) -> tuple[NDArray[np.int64], _Kept[Buffers] | None]:
        """The rows of `source` that are there, in the kept buffers that have most of them."""
        best = max(reversed(self._kept), key=lambda kept: _num_common(source.keys, kept.keys), default=None)
        num_blocks = _num_common(source.keys, best.keys) if best else 0
        return source.found(num_blocks * self.block_size), best

    def _room_beside(self, source: _Kept[Buffers], num_tokens: int) -> _Kept[Buffers] | None:
        """Buffers to copy rows of `source` to: its own where there is no room for both, None where they are short."""
        if source.capacity + num_tokens <= self.free_tokens:
            self._make_room(num_tokens, spared=source)
            return _Kept(self._allocate(num_tokens), num_tokens)
        if num_tokens <= source.capacity <= self.free_tokens:
            self._kept.remove(source)
            return replace(source, keys=())
        return None

    def give_back(self, kept: _Kept[Buffers]) -> None:
        """Called by a lease when it is freed."""
        self.free_tokens += kept.capacity
        if kept.keys:
            self._kept.append(kept)
            self._make_room()

    def _best(self, num_tokens: int, keys: Sequence[bytes]) -> _Kept[Buffers] | None:
        """Of the kept buffers for which, or for a copy, there is room: those that begin with most of `keys`."""
        best, most = None, 1
        for kept in self._kept:
            common = _num_common(keys, kept.keys)
            room = kept.capacity + (0 if _goes_on(kept, num_tokens, keys) else num_tokens)
            if room <= self.free_tokens and common >= most:
                best, most = kept, common
        return best

    def _make_room(self, num_tokens: int = 0, spared: _Kept[Buffers] | None = None) -> None:
        """Let go of the oldest buffers, but for `spared`, that do not fit beside what is leased and `num_tokens`."""
        room = self.free_tokens - num_tokens
        for kept in [kept for kept in self._kept if kept is not spared]:
            if sum(other.capacity for other in self._kept) <= room:
                break
            self._kept.remove(kept)


def _goes_on(kept: _Kept[Buffers], num_tokens: int, keys: Sequence[bytes]) -> bool:
    """Whether a lease of `num_tokens` with `keys` may have the very buffers: all of them, and about as long."""
    return num_tokens <= kept.capacity <= 2 * num_tokens and _num_common(keys, kept.keys) == len(kept.keys)


def _num_common(keys: Sequence[bytes], others: Sequence[bytes]) -> int:
    """How many of the first `keys` are the first of `others`, too."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(keys, others, strict=False)))
