"""Who holds how much of the KV cache, and what of it can be used again. Knows nothing of tokens, prompts or scheduling.

`KVCache` and `KVLease` are the interface the engine sees. `ContiguousKVCache` is the portable flavour's: one buffer per
chat and layer, past and present the same memory. The edge flavour's is in paged_kv_cache.py, the memory behind both in
kv_memory.py.

What lies in the cache is found again by keys: key i says all that tokens 0 to (i + 1) x `block_size` - 1 of a chat
depend on. Whoever asks for a lease with the keys of its first tokens gets those that are there; whoever has computed
some says so by `commit`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Generic, Protocol, TypeVar

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

    def lease(self, num_tokens: int, keys: Sequence[bytes] = ()) -> KVLease | None:
        """Room for `num_tokens`, or None while other chats hold too much of it.

        Its first blocks are those of the first `keys` that are in the cache; fewer than `num_tokens` have keys.
        """

    def find(self, keys: Sequence[bytes]) -> tuple[KVLease, int] | None:
        """Hold what is there of the first `keys` and nothing else, and how many blocks that is; None: none.

        It is not to be written, and keeps others from having it until it is freed.
        """


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
    common, where there is room for both.
    """

    def __init__(
        self,
        max_tokens: int,
        block_size: int,
        allocate: Callable[[int], Buffers],
        copy: Callable[[Buffers, Buffers, int], None],
    ) -> None:
        """`allocate(num_tokens)` makes the buffers of one lease, `copy` the first so many tokens of one in another."""
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

    def lease(self, num_tokens: int, keys: Sequence[bytes] = ()) -> ContiguousLease[Buffers] | None:
        """As `KVCache.lease`; of kept buffers, those that have most in common."""
        if num_tokens < 1 or len(keys) * self.block_size >= max(num_tokens, 1):
            raise InternalError(f"a KV lease of {num_tokens} tokens was asked for, {len(keys)} blocks of it by key")
        if num_tokens > self.free_tokens:
            return None
        best = self._best(num_tokens, keys)
        if best is not None and _goes_on(best, num_tokens, keys):
            self._kept.remove(best)
            kept = best
        else:
            common = keys[: _num_common(keys, best.keys)] if best else ()
            self._make_room(num_tokens, spared=best)
            kept = _Kept(self._allocate(num_tokens), num_tokens, tuple(common))
            if best is not None:
                self._copy(best.buffers, kept.buffers, len(common) * self.block_size)
        self.free_tokens -= kept.capacity
        self._make_room()
        return ContiguousLease(self, kept)

    def find(self, keys: Sequence[bytes]) -> tuple[ContiguousLease[Buffers], int] | None:
        """As `KVCache.find`; of kept buffers, those that have most in common."""
        best = max(self._kept, key=lambda kept: _num_common(keys, kept.keys), default=None)
        if best is None or not (count := _num_common(keys, best.keys)):
            return None
        self._kept.remove(best)
        self.free_tokens -= best.capacity
        return ContiguousLease(self, best), count

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
