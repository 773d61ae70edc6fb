"""What a server is allowed and how patient it is. Frozen data; the wire sends the limits to whoever asks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge_runtime.serving.address import DEFAULT_ADDRESS
from edge_runtime.serving.limits import DEFAULT_LIMITS, Limits


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """How a server listens. Times in seconds."""

    bind: str = DEFAULT_ADDRESS
    socket_mode: int | None = None
    """Mode of the file of an `ipc` address, which says who may connect; None: 0600, the server's own user."""
    socket_group: str | None = None
    """Group of that file, by name or number; None: the server's own."""
    limits: Limits = DEFAULT_LIMITS
    heartbeat_s: float = 1.0
    """A client with work in flight hears from us this often."""
    client_timeout_s: float = 30.0
    """A client with work in flight that says nothing for so long loses it."""
    shutdown_grace_s: float = 10.0
    """What is in flight at SIGTERM may take so long to finish."""
    keep_sessions: Path | None = None
    """Folder in which sessions are kept while the server does not run, and into which clients may save them."""
    max_unread_messages: int = 1000
    """Messages kept for a client that does not read; one more and it loses its work."""
