"""Keys and values of the chats in flight. Knows nothing of tokens, prompts or scheduling.

`KVCache` and `KVLease` are the interface the engine sees; `ContiguousKVCache` is the portable flavour's: one
buffer per chat and layer, past and present the same memory. A paged one joins later behind the same two names.
"""

from __future__ import annotations

from typing import Protocol


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
