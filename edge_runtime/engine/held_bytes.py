"""The bytes of what all sessions say. Knows no session."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from edge_runtime.engine.session_state import Held, SessionLimits
from edge_runtime.engine.turns import held_bytes
from edge_runtime.errors import TooManySessions

_WAYS = "close some, drop old images exactly, or send pictures as files and not as raw pixels"


@dataclass(slots=True)
class _Count:
    held: Held
    """So that its id stays its own."""
    num_bytes: int
    count: int = 0


class HeldBytes:
    """The bytes of messages and tools, those held several times counted once."""

    def __init__(self) -> None:
        self.num_bytes = 0
        self._held: dict[int, _Count] = {}  # by the id of what is held

    def add(self, held: Sequence[Held]) -> None:
        """Somebody holds them."""
        for one in held:
            if id(one) not in self._held:
                self._held[id(one)] = _Count(one, held_bytes(one))
                self.num_bytes += self._held[id(one)].num_bytes
            self._held[id(one)].count += 1

    def remove(self, held: Sequence[Held]) -> None:
        """Somebody who held them does not any more."""
        for one in held:
            known = self._held[id(one)]
            known.count -= 1
            if not known.count:
                self.num_bytes -= self._held.pop(id(one)).num_bytes

    def with_(self, held: Sequence[Held]) -> int:
        """What the sum would be with these."""
        return self.num_bytes + sum(held_bytes(one) for one in held if id(one) not in self._held)


class HeldByClients:
    """The bytes of messages and tools that the sessions of clients hold."""

    def __init__(self) -> None:
        self.all = HeldBytes()
        """Those of all together."""
        self._of: dict[Hashable, HeldBytes] = {}

    def of(self, client: Hashable) -> HeldBytes:
        """Those of one client's. Read-only."""
        return self._of.get(client, HeldBytes())

    def check(self, client: Hashable, held: Sequence[Held], limits: SessionLimits) -> None:
        """Raise `TooManySessions` where a session of `client` that holds these, too, is too much; None may have all."""
        self.check_room(self.all.with_(held) - self.all.num_bytes, limits)
        most, total = int(limits.max_bytes * limits.max_share), self.of(client).with_(held)
        if client is not None and total > most:
            raise TooManySessions(
                f"the sessions of this client would hold {total} bytes of text and pictures, and may {most}; {_WAYS}"
            )

    def check_room(self, num_bytes: int, limits: SessionLimits) -> None:
        """Raise `TooManySessions` where so many bytes more are too many."""
        total = self.all.num_bytes + num_bytes
        if total > limits.max_bytes:
            raise TooManySessions(
                f"all sessions would hold {total} bytes of text and pictures, and may {limits.max_bytes}; {_WAYS}"
            )

    def add(self, client: Hashable, held: Sequence[Held]) -> None:
        """A session of `client` holds them."""
        self.all.add(held)
        self._of.setdefault(client, HeldBytes()).add(held)

    def remove(self, client: Hashable, held: Sequence[Held]) -> None:
        """It does not any more."""
        self.all.remove(held)
        if client in self._of:
            self._of[client].remove(held)
            if not self._of[client].num_bytes:
                del self._of[client]
