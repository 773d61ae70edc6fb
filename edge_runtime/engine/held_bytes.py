"""The bytes of what all sessions say. Knows no session."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from edge_runtime.engine.session_state import SessionLimits
from edge_runtime.engine.turns import message_bytes
from edge_runtime.errors import TooManySessions
from edge_runtime.model.conversation import Message

_WAYS = "close some, drop old images exactly, or send pictures as files and not as raw pixels"


@dataclass(slots=True)
class _Held:
    message: Message
    """So that its id stays its own."""
    num_bytes: int
    count: int = 0


class HeldBytes:
    """The bytes of messages, those held several times counted once."""

    def __init__(self) -> None:
        self.num_bytes = 0
        self._held: dict[int, _Held] = {}  # by the id of the message

    def add(self, messages: Sequence[Message]) -> None:
        """Somebody holds them."""
        for message in messages:
            if id(message) not in self._held:
                self._held[id(message)] = _Held(message, message_bytes(message))
                self.num_bytes += self._held[id(message)].num_bytes
            self._held[id(message)].count += 1

    def remove(self, messages: Sequence[Message]) -> None:
        """Somebody who held them does not any more."""
        for message in messages:
            held = self._held[id(message)]
            held.count -= 1
            if not held.count:
                self.num_bytes -= self._held.pop(id(message)).num_bytes

    def with_(self, messages: Sequence[Message]) -> int:
        """What the sum would be with these."""
        return self.num_bytes + sum(message_bytes(message) for message in messages if id(message) not in self._held)


class HeldByClients:
    """The bytes of messages that the sessions of clients hold."""

    def __init__(self) -> None:
        self.all = HeldBytes()
        """Those of all together."""
        self._of: dict[Hashable, HeldBytes] = {}

    def of(self, client: Hashable) -> HeldBytes:
        """Those of one client's. Read-only."""
        return self._of.get(client, HeldBytes())

    def check(self, client: Hashable, messages: Sequence[Message], limits: SessionLimits) -> None:
        """Raise `TooManySessions` where a session of `client` that holds these, too, is too much; None may have all."""
        self.check_room(self.all.with_(messages) - self.all.num_bytes, limits)
        most, total = int(limits.max_bytes * limits.max_share), self.of(client).with_(messages)
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

    def add(self, client: Hashable, messages: Sequence[Message]) -> None:
        """A session of `client` holds them."""
        self.all.add(messages)
        self._of.setdefault(client, HeldBytes()).add(messages)

    def remove(self, client: Hashable, messages: Sequence[Message]) -> None:
        """It does not any more."""
        self.all.remove(messages)
        if client in self._of:
            self._of[client].remove(messages)
            if not self._of[client].num_bytes:
                del self._of[client]
