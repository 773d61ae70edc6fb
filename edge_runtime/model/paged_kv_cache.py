"""Keys and values in blocks of a fixed number of tokens: who holds which block. Knows no memory and no dtype.

The blocks themselves are rows of the pools that `ragged_decoder.py` allocates; a lease is a list of their numbers, and
the decoder graph finds a token by it. What a chat wrote stays where it is until its blocks are given to another.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import InternalError
from edge_runtime.model.kv_cache import CountedLease


class PagedLease(CountedLease):
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
            self._cache.give_back(self._block_ids)
            self._block_ids = None
            self._length = 0


class PagedKVCache:
    """A pool of equal blocks; a lease takes as many as its tokens need."""

    def __init__(self, max_tokens: int, block_size: int) -> None:
        """`max_tokens` is rounded up to whole blocks of `block_size` tokens."""
        if max_tokens < 1 or block_size < 1:
            raise InternalError(f"a KV cache of {max_tokens} tokens in blocks of {block_size} was asked for")
        self.block_size = block_size
        self.num_blocks = -(-max_tokens // block_size)
        self._free = list(range(self.num_blocks - 1, -1, -1))  # a stack: the block freed last is the warmest

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
        return PagedLease(self, np.array([self._free.pop() for _ in range(num_blocks)], dtype=np.int32))

    def give_back(self, block_ids: NDArray[np.int32]) -> None:
        """Called by a lease when it is freed."""
        self._free.extend(reversed(block_ids.tolist()))
