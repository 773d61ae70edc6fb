"""Keys and values of the chats in flight. Knows nothing of tokens, prompts or scheduling.

`KVCache` and `KVLease` are the interface the engine sees; `ContiguousKVCache` is the portable flavour's: one
buffer per chat and layer, past and present the same memory. The edge flavour's is in paged_kv_cache.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from edge_runtime.errors import InternalError

Buffers = TypeVar("Buffers")


class KVLease(Protocol):
    """The room one chat holds in the cache."""

    @property
    def capacity(self) -> int:
        """Tokens that fit."""

    @property
    def length(self) -> int:
        """Tokens that are in; a decoder run of T tokens adds T."""

    def truncate(self, length: int) -> None:
        """Forget all tokens from `length` on."""

    def free(self) -> None:
        """Give the room back. Idempotent; the lease is dead afterwards."""


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


class CountedLease:
    """What all leases have: a capacity, and a length that runs extend and truncation cuts."""

    __slots__ = ("_capacity", "_length")

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._length = 0

    @property
    def capacity(self) -> int:
        """Tokens that fit."""
        return self._capacity

    @property
    def length(self) -> int:
        """Tokens that are in."""
        return self._length

    def extend(self, num_tokens: int) -> None:
        """Count `num_tokens` more as in. Raises `InternalError` past the capacity."""
        if num_tokens < 0 or self._length + num_tokens > self._capacity:
            raise InternalError(f"{self._length} + {num_tokens} tokens in a KV lease of {self._capacity}")
        self._length += num_tokens

    def truncate(self, length: int) -> None:
        """Forget all tokens from `length` on."""
        if not 0 <= length <= self._length:
            raise InternalError(f"a KV lease of {self._length} tokens cannot be cut to {length}")
        self._length = length


class ContiguousLease(CountedLease, Generic[Buffers]):
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
            self._cache.give_back(self._capacity)


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
