"""Who holds how much of the KV cache. Knows nothing of tokens, prompts or scheduling, nor of the memory itself.

`KVCache` and `KVLease` are the interface the engine sees. `ContiguousKVCache` is the portable flavour's: one buffer per
chat and layer, past and present the same memory. `PagedKVCache` is the edge flavour's: a lease is a list of blocks of
one pool, by which the decoder graph finds a token. The memory behind both is in kv_memory.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import InternalError

Buffers = TypeVar("Buffers")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A moment in the life of a lease. Keys and values stay where they are, so their number says it all."""

    length: int


class KVLease:
    """The room one chat holds in the cache, and with it all that a model keeps of the chat's past.

    `truncate` works for keys and values alone. A state that every token is folded into (a recurrent layer's) can only
    be restored from a checkpoint taken before; what should work for any model uses those.
    """

    __slots__ = ("_length", "capacity")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        """Tokens that fit."""
        self._length = 0

    @property
    def length(self) -> int:
        """Tokens that are in; a decoder run of T tokens adds T."""
        return self._length

    def extend(self, num_tokens: int) -> None:
        """Count `num_tokens` more as in. Raises `InternalError` past the capacity."""
        if num_tokens < 0 or self._length + num_tokens > self.capacity:
            raise InternalError(f"{self._length} + {num_tokens} tokens in a KV lease of {self.capacity}")
        self._length += num_tokens

    def truncate(self, length: int) -> None:
        """Forget all tokens from `length` on."""
        if not 0 <= length <= self._length:
            raise InternalError(f"a KV lease of {self._length} tokens cannot be cut to {length}")
        self._length = length

    def checkpoint(self) -> Checkpoint:
        """This moment, to go back to; later ones are lost by that. Costs next to nothing."""
        return Checkpoint(self._length)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go back to `checkpoint`, which is of this lease and not of a moment that was lost."""
        self.truncate(checkpoint.length)

    def free(self) -> None:
        """Give the room back. Idempotent; the lease is dead afterwards."""
        raise NotImplementedError


class KVCache(Protocol):
    """All room there is, in tokens over all chats."""

    @property
    def max_tokens(self) -> int:
        """Tokens that fit when nothing is leased: no single chat can be longer."""

    @property
    def free_tokens(self) -> int:
        """Tokens that can be leased now."""

    def lease(self, num_tokens: int) -> KVLease | None:
        """Room for `num_tokens`, or None while other chats hold too much of it."""


class ContiguousLease(KVLease, Generic[Buffers]):
    """One chat's own buffers, each as long as its capacity. `buffers` is whatever the cache was told to allocate."""

    __slots__ = ("_buffers", "_cache")

    def __init__(self, cache: ContiguousKVCache[Buffers], capacity: int, buffers: Buffers) -> None:
        super().__init__(capacity)
        self._cache = cache
        self._buffers: Buffers | None = buffers

    @property
    def buffers(self) -> Buffers:
        """The memory. Raises `InternalError` after `free`."""
        if self._buffers is None:
            raise InternalError("a freed KV lease was used")
        return self._buffers

    def free(self) -> None:
        """Give the room back. Idempotent; the lease is dead afterwards."""
        if self._buffers is not None:
            self._buffers = None
            self._length = 0
            self._cache.give_back(self.capacity)


class ContiguousKVCache(Generic[Buffers]):
    """A budget of tokens; each lease takes its whole length from it at once and has buffers of its own."""

    def __init__(self, max_tokens: int, allocate: Callable[[int], Buffers]) -> None:
        """`allocate(num_tokens)` makes the buffers of one lease; they are dropped when the lease is freed."""
        self._max_tokens = max_tokens
        self._free_tokens = max_tokens
        self._allocate = allocate

    @property
    def max_tokens(self) -> int:
        """Tokens that fit when nothing is leased."""
        return self._max_tokens

    @property
    def free_tokens(self) -> int:
        """Tokens that can be leased now."""
        return self._free_tokens

    def lease(self, num_tokens: int) -> ContiguousLease[Buffers] | None:
        """Room for `num_tokens`, or None while other chats hold too much of it."""
        if num_tokens < 1:
            raise InternalError(f"a KV lease of {num_tokens} tokens was asked for")
        if num_tokens > self._free_tokens:
            return None
        lease = ContiguousLease(self, num_tokens, self._allocate(num_tokens))
        self._free_tokens -= num_tokens
        return lease

    def give_back(self, num_tokens: int) -> None:
        """Called by a lease when it is freed."""
        self._free_tokens += num_tokens


class PagedLease(KVLease):
    """The blocks of one chat, taken whole when it is admitted: a chat that runs cannot run out of room."""

    __slots__ = ("_block_ids", "_cache")

    def __init__(self, cache: PagedKVCache, block_ids: NDArray[np.int32]) -> None:
        super().__init__(len(block_ids) * cache.block_size)
        self._cache = cache
        self._block_ids: NDArray[np.int32] | None = block_ids

    @property
    def block_ids(self) -> NDArray[np.int32]:
        """[num_blocks]: position p of the chat lies in block `block_ids[p // block_size]`. Raises after `free`."""
        if self._block_ids is None:
            raise InternalError("a freed KV lease was used")
        return self._block_ids

    def free(self) -> None:
        """Give the blocks back. Idempotent; the lease is dead afterwards."""
        if self._block_ids is not None:
            self._cache.release(self._block_ids)
            self._block_ids = None
            self._length = 0


class PagedKVCache:
    """A pool of equal blocks; a lease takes as many as its tokens need. A block is free when nobody refers to it.

    What was written to a block stays there until it is given to another lease.
    """

    def __init__(self, max_tokens: int, block_size: int) -> None:
        """`max_tokens` is rounded up to whole blocks of `block_size` tokens."""
        if max_tokens < 1 or block_size < 1:
            raise InternalError(f"a KV cache of {max_tokens} tokens in blocks of {block_size} was asked for")
        self.block_size = block_size
        self.num_blocks = -(-max_tokens // block_size)
        self._free = list(range(self.num_blocks - 1, -1, -1))  # a stack: the block freed last is the warmest
        self._references = np.zeros(self.num_blocks, dtype=np.int64)

    @property
    def max_tokens(self) -> int:
        """Tokens that fit when nothing is leased: no single chat can be longer."""
        return self.num_blocks * self.block_size

    @property
    def free_tokens(self) -> int:
        """Tokens that can be leased now."""
        return len(self._free) * self.block_size

    def lease(self, num_tokens: int) -> PagedLease | None:
        """Room for `num_tokens`, rounded up to whole blocks, or None while other chats hold too much of it."""
        if num_tokens < 1:
            raise InternalError(f"a KV lease of {num_tokens} tokens was asked for")
        if num_tokens > self.free_tokens:
            return None
        num_blocks = -(-num_tokens // self.block_size)
        block_ids = np.array([self._free.pop() for _ in range(num_blocks)], dtype=np.int32)
        self._references[block_ids] = 1
        return PagedLease(self, block_ids)

    def hold(self, block_ids: Iterable[int]) -> None:
        """Refer to blocks that somebody else refers to: they stay when that one lets go. They are not to be written."""
        blocks = [int(block) for block in block_ids]
        for block in blocks:
            if not 0 <= block < self.num_blocks or not self._references[block]:
                raise InternalError(f"KV block {block} is free, it cannot be held")
        for block in blocks:
            self._references[block] += 1

    def release(self, block_ids: Sequence[int] | NDArray[np.int32]) -> None:
        """Refer to blocks no more; those that nobody refers to are free, the first of them to be given out first."""
        for block in reversed([int(block) for block in block_ids]):
            if not self._references[block]:
                raise InternalError(f"KV block {block} was released more often than it was held")
            self._references[block] -= 1
            if not self._references[block]:
                self._free.append(block)
