"""Who asked for what: the clients with work in flight, and the requests they wait for. Knows no sockets, no engine."""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass, field

from edge_runtime.errors import EdgeError


@dataclass(slots=True, eq=False)
class Session:
    """One connection with requests in flight, or with endings that it has not taken yet."""

    identity: bytes
    last_heard_s: float
    in_flight: dict[str, InFlight] = field(default_factory=dict)
    """By the client's own request ids."""
    undelivered: deque[bytes] = field(default_factory=deque)
    """Last messages of requests, encoded, that found the client's queue full; nothing may overtake them."""
    gone: bool = False
    """Disconnected: nothing can be delivered any more."""


@dataclass(slots=True, eq=False)
class InFlight:
    """One request that the engine has and that has not ended."""

    engine_id: str
    client_id: str
    session: Session
    num_bytes: int = 0
    """Size of its binary frames."""
    reason: EdgeError | None = None
    """Why the server itself cancelled it; told to the client in place of the engine's bare "cancelled"."""


class SessionTable:
    """Live sessions by identity, requests in flight by engine id. A session with nothing to wait for is forgotten."""

    def __init__(self) -> None:
        self._sessions: dict[bytes, Session] = {}
        self._requests: dict[str, InFlight] = {}
        self._numbers = itertools.count(1)

    @property
    def num_in_flight(self) -> int:
        """Requests in flight, those of lost clients included until the engine has let go of them."""
        return len(self._requests)

    @property
    def bytes_in_flight(self) -> int:
        """Binary frames of the requests in flight, also those that the engine has already done with."""
        return sum(request.num_bytes for request in self._requests.values())

    def sessions(self) -> list[Session]:
        """A snapshot of the live sessions."""
        return list(self._sessions.values())

    def requests(self) -> list[InFlight]:
        """A snapshot of the requests in flight."""
        return list(self._requests.values())

    def find(self, identity: bytes) -> Session | None:
        """The session of a connection, if it has one."""
        return self._sessions.get(identity)

    def open(self, identity: bytes, now_s: float) -> Session:
        """The session of a connection, a new one if need be."""
        session = self._sessions.get(identity)
        if session is None:
            session = self._sessions[identity] = Session(identity, now_s)
        return session

    def add(self, session: Session, client_id: str, num_bytes: int) -> InFlight:
        """Enter a request with so many bytes of binary frames under a new engine id."""
        request = InFlight(f"r{next(self._numbers)}", client_id, session, num_bytes)
        session.in_flight[client_id] = request
        self._requests[request.engine_id] = request
        return request

    def request(self, engine_id: str) -> InFlight | None:
        """The request of that engine id, unless it has ended."""
        return self._requests.get(engine_id)

    def end(self, request: InFlight) -> None:
        """Take a request out; its session stays until `forget_if_idle`."""
        del self._requests[request.engine_id]
        del request.session.in_flight[request.client_id]

    def forget_if_idle(self, session: Session) -> None:
        """Drop a session that has neither requests nor endings left."""
        if not session.gone and not session.in_flight and not session.undelivered:
            del self._sessions[session.identity]

    def lose(self, session: Session) -> None:
        """Drop a session whose connection has ended; its requests stay until the engine has let go of them."""
        session.gone = True
        del self._sessions[session.identity]
