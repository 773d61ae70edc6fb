"""The bytes of what all sessions say. Knows no session."""

from __future__ import annotations

from collections.abc import Sequence

from edge_runtime.engine.turns import message_bytes
from edge_runtime.model.conversation import Message


class HeldBytes:
    """The bytes of messages, those held several times counted once."""

    def __init__(self) -> None:
        self.num_bytes = 0
        self._counts: dict[int, tuple[Message, int]] = {}  # the message itself, so that its id stays its own

    def add(self, messages: Sequence[Message]) -> None:
        """Somebody holds them."""
        for message in messages:
            count = self._counts.get(id(message), (message, 0))[1]
            self._counts[id(message)] = message, count + 1
            self.num_bytes += 0 if count else message_bytes(message)

    def remove(self, messages: Sequence[Message]) -> None:
        """Somebody who held them does not any more."""
        for message in messages:
            count = self._counts.pop(id(message))[1]
            if count > 1:
                self._counts[id(message)] = message, count - 1
            else:
                self.num_bytes -= message_bytes(message)

    def with_(self, messages: Sequence[Message]) -> int:
        """What the sum would be with these."""
        return self.num_bytes + sum(message_bytes(message) for message in messages if id(message) not in self._counts)
