"""The edge flavour's KV cache: a pool of blocks, shared by all chats that have the same past. Knows no memory.

A lease is a list of blocks, by which the decoder graph finds a token. A block that is full and has a key is never
written again; when nobody refers to it, it is kept until its room is needed, the least recently used first. Of a block
that ended with its chat before it was full, and of the one where a prompt ended, parts have keys too: they are copied.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from itertools import takewhile

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import InternalError
from edge_runtime.model.kv_cache import KVLease, RowSource


class PagedLease(KVLease):
    """The blocks of one chat, taken whole when it is admitted: a chat that runs cannot run out of room."""

    __slots__ = ("_block_ids", "_cache")

    def __init__(self, cache: PagedKVCache, block_ids: NDArray[np.int32], num_shared: int = 0) -> None:
        super().__init__(len(block_ids) * cache.block_size, cache.block_size, num_shared)
        self._cache = cache
        self._block_ids: NDArray[np.int32] | None = block_ids

    @property
    def block_ids(self) -> NDArray[np.int32]:
        """[num_blocks]: position p of the chat lies in block `block_ids[p // block_size]`. Raises after `free`."""
        if self._block_ids is None:
            raise InternalError("a freed KV lease was used")
        return self._block_ids

    def commit_part(self, index: int, keys: Sequence[bytes]) -> None:
        """As `KVLease.commit_part`."""
        self._cache.enter_part(keys, int(self.block_ids[index]))

    def _publish(self, keys: Sequence[bytes]) -> None:
        """Enter those that are new."""
        for index in range(self.num_committed, len(keys)):
            self._cache.enter(keys[index], int(self.block_ids[index]))

    def free(self) -> None:
        """Give the blocks back. Idempotent; the lease is dead afterwards."""
        if self._block_ids is not None:
            self._cache.release(self._block_ids)
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
        self._kept: OrderedDict[int, None] = OrderedDict()  # blocks with keys that nobody refers to, oldest first
        self._references = np.zeros(self.num_blocks, dtype=np.int64)
        self._block_of: dict[bytes, int] = {}
        self._key_of: dict[int, bytes] = {}
        self._part_of: dict[bytes, tuple[int, int]] = {}  # a block, and how many of its first rows the key is of
        self._parts: dict[int, list[bytes]] = {}  # by block
        self.copy_rows: Callable[[NDArray[np.int64], NDArray[np.int64]], None] = _no_memory
        """Copies what lies in some rows to others; both count through all blocks. Set by who owns the memory."""

    @property
    def max_tokens(self) -> int:
        """Tokens that fit when nothing is leased: no single chat can be longer."""
        return self.num_blocks * self.block_size

    @property
    def free_tokens(self) -> int:
        """Tokens that can be leased now; what is only kept to be used again gives way."""
        return (len(self._free) + len(self._kept)) * self.block_size

    @property
    def kept_tokens(self) -> int:
        """Those of them that would be found again."""
        return len(self._kept) * self.block_size

    def lease(
        self, num_tokens: int, keys: Sequence[bytes] = (), sources: Iterable[RowSource] = ()
    ) -> PagedLease | None:
        """As `KVCache.lease`, rounded up to whole blocks."""
        if num_tokens < 1 or len(keys) * self.block_size >= max(num_tokens, 1):
            raise InternalError(f"a KV lease of {num_tokens} tokens was asked for, {len(keys)} blocks of it by key")
        shared = self._shared(keys)
        num_own = -(-num_tokens // self.block_size) - len(shared)
        if num_own > self._num_free_beside(shared):
            return None
        rows = self._found(sources, len(shared) * self.block_size)
        read = np.unique(rows // self.block_size).tolist()
        if num_own > self._num_free_beside({*shared, *read}):
            rows, read = rows[:0], []
        self._use((*shared, *read))
        own = [self._take() for _ in range(num_own)]
        self._references[own] = 1
        lease = PagedLease(self, np.array([*shared, *own], dtype=np.int32), len(shared))
        if len(rows):
            places = np.arange(lease.length, lease.length + len(rows))
            blocks, inside = np.divmod(places, self.block_size)
            self.copy_rows(rows, lease.block_ids[blocks].astype(np.int64) * self.block_size + inside)
            lease.begin(lease.length + len(rows), keys)
            self.release(read)
        return lease

    def _num_free_beside(self, blocks: Iterable[int]) -> int:
        """How many blocks can be taken if these stay."""
        return len(self._free) + len(self._kept) - sum(not self._references[block] for block in blocks)

    def _found(self, sources: Iterable[RowSource], num_tokens: int) -> NDArray[np.int64]:
        """Where the tokens of a lease from number `num_tokens` on can be copied from, counted through all blocks."""
        best = np.empty(0, dtype=np.int64)
        for source in sources:
            blocks = self._shared(source.keys)
            block, num_rows = self._part(source, len(blocks))
            rows = source.found(len(blocks) * self.block_size + num_rows)[num_tokens:]
            if len(rows) > len(best):
                places = np.array([*blocks, block], dtype=np.int64)
                best = places[rows // self.block_size] * self.block_size + rows % self.block_size
        return best

    def find(self, source: RowSource) -> tuple[PagedLease, int] | None:
        """As `KVCache.find`."""
        blocks = self._shared(source.keys)
        block, num_rows = self._part(source, len(blocks))
        num_tokens = len(source.found(len(blocks) * self.block_size + num_rows))
        blocks += [block] if num_rows else []
        if not num_tokens:
            return None
        self._use(blocks)
        return PagedLease(self, np.array(blocks, dtype=np.int32), num_tokens // self.block_size), num_tokens

    def _part(self, source: RowSource, index: int) -> tuple[int, int]:
        """The block that has most of the first rows of block `index` of a past, and how many; (0, 0): none has any."""
        parts = (self._part_of[key] for key in reversed(source.parts(index)) if key in self._part_of)
        return next(parts, (0, 0))

    def _shared(self, keys: Sequence[bytes]) -> list[int]:
        """The blocks of the first `keys` that are here."""
        return [self._block_of[key] for key in takewhile(self._block_of.__contains__, keys)]

    def _use(self, blocks: Iterable[int]) -> None:
        """Refer to blocks that are kept or that others refer to."""
        for block in blocks:
            self._kept.pop(block, None)
            self._references[block] += 1

    def enter(self, key: bytes, block: int) -> None:
        """Remember that `block` holds what `key` says, unless another one does already."""
        if key not in self._block_of and block not in self._key_of:
            self._block_of[key] = block
            self._key_of[block] = key

    def enter_part(self, keys: Sequence[bytes], block: int) -> None:
        """Remember that the first i + 1 rows of `block` hold what `keys[i]` says, where no other does already."""
        for num_rows, key in enumerate(keys, 1):
            if key not in self._part_of:
                self._part_of[key] = block, num_rows
                self._parts.setdefault(block, []).append(key)

    def release(self, block_ids: Sequence[int] | NDArray[np.int32]) -> None:
        """Refer to blocks no more. Of those that are kept, the last of a chat is the first to give way."""
        for block in reversed([int(block) for block in block_ids]):
            if not self._references[block]:
                raise InternalError(f"KV block {block} was released more often than it was held")
            self._references[block] -= 1
            if self._references[block]:
                continue
            if block in self._key_of or block in self._parts:
                self._kept[block] = None
            else:
                self._free.append(block)

    def _take(self) -> int:
        """A block to write to: one that holds nothing, else the one kept longest."""
        if self._free:
            return self._free.pop()
        block, _ = self._kept.popitem(last=False)
        if block in self._key_of:
            del self._block_of[self._key_of.pop(block)]
        for key in self._parts.pop(block, ()):
            del self._part_of[key]
        return block


def _no_memory(sources: NDArray[np.int64], targets: NDArray[np.int64]) -> None:
    raise InternalError(
        f"{len(sources)} rows were to be copied to {len(targets)} others of a KV cache without a memory"
    )
