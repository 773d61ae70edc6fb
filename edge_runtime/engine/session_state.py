"""What a session is: in use, as it is told of, and put away; and what sessions may be. Plain data."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from edge_runtime.model.cancellation import CancelToken
from edge_runtime.model.conversation import Message
from edge_runtime.model.tools import ToolDefinition

Held = Message | ToolDefinition
"""What a session holds."""


@dataclass(slots=True, eq=False)
class Session:
    """One conversation. Used under the lock of its `Sessions`."""

    session_id: str
    client: Hashable
    """Who opened it: clients have limits. Whoever knows its id, and gives its salt, may use it."""
    cache_salt: str
    key_salt: str | None
    """As `SavedState.key_salt`."""
    used_s: float
    messages: tuple[Message, ...] = ()
    """Questions and answers so far."""
    tools: tuple[ToolDefinition, ...] = ()
    """What its last request offered: what is computed of it begins with them."""
    answering: Asked | None = None
    """The request whose answer will be part of it."""

    @property
    def holds(self) -> tuple[Held, ...]:
        """All that takes memory."""
        return (*self.messages, *self.tools)


@dataclass(slots=True, eq=False)
class Asked:
    """A request of a session, from when it begins to its end."""

    session: Session
    past: tuple[Message, ...]
    """The messages of the session when it began, and"""
    messages: tuple[Message, ...]
    """all that is said in it, and"""
    tools: tuple[ToolDefinition, ...]
    """what it offers, and"""
    cancel: CancelToken
    """how it is stopped."""

    @property
    def holds(self) -> tuple[Held, ...]:
        """All that takes memory."""
        return (*self.messages, *self.tools)


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """How many sessions are kept, for how long, and how much they may hold. Times in seconds."""

    max_sessions: int = 4096
    max_sessions_per_client: int = 1024
    max_bytes: int = 256 * 2**20
    """Text and pictures of all sessions; what several of them share counts once."""
    max_share: float = 0.75
    """How much of that the sessions of one client may have."""
    timeout_s: float = 3600.0
    """A session that nobody has used for so long is forgotten."""


@dataclass(frozen=True, slots=True)
class SessionState:
    """What is told of a session."""

    session_id: str
    num_turns: int
    num_messages: int
    num_bytes: int
    """Its text and pictures, also those that it shares with others."""
    timeout_s: float
    is_busy: bool = False


@dataclass(frozen=True, slots=True)
class SavedState:
    """A session as it can be opened again."""

    messages: tuple[Message, ...] = ()
    cache_salt: str = ""
    key_salt: str | None = None
    """In place of `cache_salt` in what its requests compute and find; None: no other."""
    session_id: str | None = None
    """None: a new one."""
    idle_s: float = 0.0
    """For how long nobody has used it."""
    tools: tuple[ToolDefinition, ...] = ()
    """As `Session.tools`."""

    @property
    def salt(self) -> str:
        """The salt of what its requests compute and find."""
        return self.cache_salt if self.key_salt is None else self.key_salt
