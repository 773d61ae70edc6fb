"""Who holds how much of the KV cache, and what of it can be used again. Knows nothing of tokens, prompts or scheduling.

`KVCache` and `KVLease` are the interface the engine sees. The portable flavour's is in contiguous_kv_cache.py, the edge
flavour's in paged_kv_cache.py, the memory behind both in kv_memory.py.

What lies in the cache is found again by keys: key i says all that tokens 0 to (i + 1) x `block_size` - 1 of a chat
depend on. Whoever asks for a lease with the keys of its first tokens gets those that are there; whoever has computed
some says so by `commit`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import InternalError


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A moment in the life of a lease. Keys and values stay where they are, so their number says it all."""

    length: int


@dataclass(frozen=True, slots=True, eq=False)
class RowSource:
    """Another chat's past that has keys and values which will do for a lease, though its keys are others."""

    keys: Sequence[bytes]
    """Of its first blocks."""
    rows: NDArray[np.int64]
    """[n] which of its tokens will do for the first n of the lease, in rising order."""
    parts: Callable[[int], Sequence[bytes]] = lambda _: ()
    """Keys of the first 1, 2, ... tokens of its block of that index, where caches are asked for parts of blocks."""

    def found(self, num_tokens: int) -> NDArray[np.int64]:
        """Those of `rows` that are among its first `num_tokens` tokens."""
        return self.rows[: np.searchsorted(self.rows, num_tokens)]


class KVLease:
    """The room one chat holds in the cache, and with it all that a model keeps of the chat's past.

    `truncate` works for keys and values alone. A state that every token is folded into (a recurrent layer's) can only
    be restored from a checkpoint taken before; what should work for any model uses those.
    """

    __slots__ = ("_length", "block_size", "capacity", "num_committed", "num_reused")

    def __init__(self, capacity: int, block_size: int, num_shared: int = 0) -> None:
        """`num_shared` blocks of `block_size` tokens are in already."""
        self.capacity = capacity
        """Tokens that fit."""
        self.block_size = block_size
        self.num_reused = num_shared * block_size
        """Tokens that were in when it was given out."""
        self.num_committed = num_shared
        """Blocks that others may use: they are not to be written any more."""
        self._length = self.num_reused

    @property
    def length(self) -> int:
        """Tokens that are in; a decoder run of T tokens adds T."""
        return self._length

    def begin(self, num_tokens: int, keys: Sequence[bytes]) -> None:
        """Count `num_tokens` as in when it was given out: they were copied. `keys`: of its first blocks."""
        self.extend(num_tokens - self._length)
        self.num_reused = num_tokens
        self.commit(keys[: num_tokens // self.block_size])

    def extend(self, num_tokens: int) -> None:
        """Count `num_tokens` more as in. Raises `InternalError` past the capacity."""
        if num_tokens < 0 or self._length + num_tokens > self.capacity:
            raise InternalError(f"{self._length} + {num_tokens} tokens in a KV lease of {self.capacity}")
        self._length += num_tokens

    def truncate(self, length: int) -> None:
        """Forget all tokens from `length` on."""
        if not 0 <= length <= self._length:
            raise InternalError(f"a KV lease of {self._length} tokens cannot be cut to {length}")
        if length < self.num_committed * self.block_size:
            raise InternalError(f"a KV lease was to be cut to {length} tokens, and more of it is committed")
        self._length = length

    def checkpoint(self) -> Checkpoint:
        """This moment, to go back to; later ones are lost by that. Costs next to nothing."""
        return Checkpoint(self._length)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go back to `checkpoint`, which is of this lease and not of a moment that was lost."""
        self.truncate(checkpoint.length)

    def commit(self, keys: Sequence[bytes]) -> None:
        """Say what its first blocks hold, one key each: others may use them. They are not to be written any more."""
        if len(keys) * self.block_size > self._length:
            raise InternalError(f"{len(keys)} blocks of a KV lease of {self._length} tokens were committed")
        self._publish(keys)
        self.num_committed = max(self.num_committed, len(keys))

    def commit_part(self, index: int, keys: Sequence[bytes]) -> None:
        """Say what the first 1, 2, ... tokens of the block `index` hold: others may copy them. Where parts are kept."""

    def _publish(self, keys: Sequence[bytes]) -> None:
        """Let others find the blocks of these keys."""
        raise NotImplementedError

    def free(self) -> None:
        """Give the room back. Idempotent; the lease is dead afterwards."""
        raise NotImplementedError


class KVCache(Protocol):
    """All room there is, in tokens over all chats."""

    @property
    def block_size(self) -> int:
        """Tokens that are found again, or not, together."""

    @property
    def max_tokens(self) -> int:
        """Tokens that fit when nothing is leased: no single chat can be longer."""

    @property
    def free_tokens(self) -> int:
        """Tokens that can be leased now; what is only kept to be used again gives way."""

    @property
    def kept_tokens(self) -> int:
        """Those of them that would be found again."""

    def lease(self, num_tokens: int, keys: Sequence[bytes] = (), sources: Iterable[RowSource] = ()) -> KVLease | None:
        """Room for `num_tokens`, or None while other chats hold too much of it.

        Its first blocks are those of the first `keys` that are in the cache; fewer than `num_tokens` have keys. More
        than that is copied from the one of `sources` that has most, if there is room for both.
        """

    def find(self, source: RowSource) -> tuple[KVLease, int] | None:
        """Hold what is there of the first tokens of a past and nothing else, and how many they are; None: none.

        It is not to be written, and keeps others from having it until it is freed.
        """
