"""Who asked for what, and getting answers to clients that may be slow, silent or gone, without ever waiting for one.

A client that does not read, or says nothing, or has gone, loses its work; but the ending of each of its requests is
kept for it as long as it is connected. docs/protocol.md, "Liveness", is the same told to clients. Knows no engine.
"""

from __future__ import annotations

import enum
import itertools
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from edge_runtime.engine.events import Delta, Event, Failed, Finished
from edge_runtime.engine.session_state import SessionState
from edge_runtime.errors import Cancelled, EdgeError, Overloaded, ProtocolError
from edge_runtime.serving import messages as wire
from edge_runtime.serving.conversion import event_to_wire, session_to_wire
from edge_runtime.serving.limits import Limits
from edge_runtime.serving.sockets import Router, Sent
from edge_runtime.serving.summary import Summary

_MAX_REFUSALS_KEPT = 1000
"""Answers to what was refused, kept for a client that does not read: it may ask on all the same, so they are bounded.
The endings of requests that were accepted are all kept; nothing is accepted while any answer is."""


@dataclass(slots=True, eq=False)
class Connection:
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
    connection: Connection
    num_bytes: int = 0
    """Size of its binary frames."""
    reason: EdgeError | None = None
    """Why the server itself cancelled it; told to the client in place of the engine's bare "cancelled"."""


class Keep(enum.Enum):
    """Whether a message is kept for a client whose queue is full."""

    NO = enum.auto()
    REFUSAL = enum.auto()
    """The answer to a message that led to nothing, or to an `info`."""
    ENDING = enum.auto()
    """The end of an accepted request."""


@dataclass(slots=True)
class Tally:
    """What a server has done so far; every accepted request is counted in exactly one of the next three."""

    accepted: int = 0
    finished: int = 0
    failed: int = 0
    """Also those that a client was asked to send again, with pictures."""
    lost: int = 0
    """Ended with nobody left to tell."""
    refused: int = 0
    """Messages that led to nothing: malformed, too large, overloaded, shutting down."""


class Connections:
    """The clients that wait for something, and the requests they wait for. Never blocks on any of them."""

    def __init__(self, router: Router, cancel: Callable[[str], None], tally: Tally, log: Summary) -> None:
        """`cancel` gets the engine id of work that nobody waits for any more."""
        self._router = router
        self._cancel = cancel
        self._tally = tally
        self._log = log
        self._connections: dict[bytes, Connection] = {}  # by identity; who waits for nothing is forgotten
        self._requests: dict[str, InFlight] = {}  # by engine id
        self._numbers = itertools.count(1)
        self._last_heartbeat_s = 0.0

    @property
    def num_in_flight(self) -> int:
        """Requests in flight, those of lost clients included until the engine has let go of them."""
        return len(self._requests)

    @property
    def bytes_in_flight(self) -> int:
        """Binary frames of the requests in flight, also those that the engine has already done with."""
        return sum(request.num_bytes for request in self._requests.values())

    def all(self) -> list[Connection]:
        """A snapshot of the connections that wait for something."""
        return list(self._connections.values())

    def requests(self) -> list[InFlight]:
        """A snapshot of the requests in flight."""
        return list(self._requests.values())

    def find(self, identity: bytes) -> Connection | None:
        """The connection of that identity, if it waits for anything."""
        return self._connections.get(identity)

    def check_room(self, identity: bytes, client_id: str, num_bytes: int, limits: Limits) -> None:
        """Raise `Overloaded` or `ProtocolError` where a request with so many bytes of binary frames is too much."""
        if self.num_in_flight >= limits.max_in_flight:
            raise Overloaded(f"the server has {self.num_in_flight} requests in flight and takes no more")
        in_flight_bytes = self.bytes_in_flight
        if num_bytes and in_flight_bytes and in_flight_bytes + num_bytes > limits.max_in_flight_bytes:
            raise Overloaded(
                f"the server holds {in_flight_bytes} bytes of pictures and takes no more than "
                f"{limits.max_in_flight_bytes}; try again later"
            )
        connection = self.find(identity)
        if connection is None:
            return
        if client_id in connection.in_flight:
            raise ProtocolError(f"request id {client_id!r} is already in flight on this connection; give each its own")
        if connection.undelivered:
            raise Overloaded("this client does not read its answers; read them before asking for more")
        if len(connection.in_flight) >= limits.max_in_flight_per_client:
            raise Overloaded(f"this client has {len(connection.in_flight)} requests in flight and may have no more")

    def accept(self, identity: bytes, client_id: str, num_bytes: int, now_s: float) -> InFlight:
        """Enter a request with so many bytes of binary frames under a new engine id."""
        connection = self._connections.setdefault(identity, Connection(identity, now_s))
        request = InFlight(f"r{next(self._numbers)}", client_id, connection, num_bytes)
        self._requests[request.engine_id] = connection.in_flight[client_id] = request
        self._tally.accepted += 1
        return request

    def accepted(self, request: InFlight, client_timeout_s: float) -> None:
        """Tell the client that its request is in the queue."""
        message = wire.Accepted(request_id=request.client_id, client_timeout_s=client_timeout_s, takes_digests=True)
        self.post(request.connection.identity, message)

    def post(self, identity: bytes, message: wire.ServerMessage, *, keep: Keep = Keep.NO) -> None:
        """Send one message, or keep it for later if it is the last of its kind and the client does not read."""
        connection = self._connections.setdefault(identity, Connection(identity, time.monotonic()))
        payload = wire.encode(message)
        sent = Sent.FULL if connection.undelivered else self._router.send(identity, payload)
        if sent is Sent.GONE:
            self._lose(connection)
        elif sent is Sent.FULL:
            why = "cancelled: the client does not read its messages and its queue is full"
            self._abandon(connection, Cancelled(why))
            if keep is Keep.ENDING or (keep is Keep.REFUSAL and len(connection.undelivered) < _MAX_REFUSALS_KEPT):
                connection.undelivered.append(payload)
        self._forget_if_idle(connection)

    def deliver(self, event: Event) -> None:
        """Send an event of the engine to the client whose request it belongs to."""
        request = self._requests.get(event.request_id)
        if request is None:
            return
        if isinstance(event, Failed) and isinstance(event.error, Cancelled) and request.reason is not None:
            event = Failed(event.request_id, request.reason)
        message = event_to_wire(event, request.client_id)
        if isinstance(message, Delta):
            if request.reason is None:
                self.post(request.connection.identity, message)
            return
        self._end(request, message)

    def answer(self, engine_id: str, outcome: SessionState | EdgeError) -> None:
        """Tell a client what has become of its session."""
        request = self._requests.get(engine_id)
        if isinstance(outcome, EdgeError):
            self.deliver(Failed(engine_id, outcome))
        elif request is not None:
            self._end(request, session_to_wire(outcome, request.client_id))

    def _end(self, request: InFlight, message: wire.ServerMessage) -> None:
        del self._requests[request.engine_id], request.connection.in_flight[request.client_id]
        if request.connection.gone:
            self._tally.lost += 1
            return
        if isinstance(message, (Finished, wire.SessionReply)):
            self._tally.finished += 1
        else:
            self._tally.failed += 1
        self.post(request.connection.identity, message, keep=Keep.ENDING)

    def heartbeat(self, now_s: float, client_timeout_s: float) -> None:
        """Tell every waiting client that we are here; whoever cannot be reached, or is silent, loses its work."""
        slept = now_s - self._last_heartbeat_s > client_timeout_s  # what clients said meanwhile is still to be read
        self._last_heartbeat_s = now_s
        for connection in self.all():
            if slept:
                connection.last_heard_s = now_s
            silent_s = now_s - connection.last_heard_s
            if silent_s > client_timeout_s:
                why = f"cancelled: nothing was heard from the client for {silent_s:.1f} s"
                self._abandon(connection, Cancelled(why))
            self._flush(connection)
            if not connection.gone and not connection.undelivered:
                self.post(connection.identity, wire.Pong())

    def flush(self) -> bool:
        """Try again to deliver what slow clients have not taken; whether some of it is left."""
        for connection in self.all():
            self._flush(connection)
            self._forget_if_idle(connection)
        return any(connection.undelivered for connection in self.all())

    def give_up(self, request: InFlight, reason: EdgeError) -> None:
        """Cancel one request, for a reason that its ending will name."""
        if request.reason is None:
            self._log.note(logging.INFO, reason.code, f"request {request.engine_id}: {reason}")
            request.reason = reason
            self._cancel(request.engine_id)

    def _abandon(self, connection: Connection, reason: EdgeError) -> None:
        for request in list(connection.in_flight.values()):
            self.give_up(request, reason)

    def _flush(self, connection: Connection) -> None:
        while connection.undelivered:
            sent = self._router.send(connection.identity, connection.undelivered[0])
            if sent is Sent.GONE:
                self._lose(connection)
            if sent is not Sent.OK:
                return
            connection.undelivered.popleft()

    def _lose(self, connection: Connection) -> None:
        """The client is gone: stop its work. Its requests stay until the engine has let go of them."""
        if connection.in_flight:
            count = len(connection.in_flight)
            self._log.note(logging.INFO, "gone", f"a client went away with {count} requests in flight")
        connection.gone = True
        del self._connections[connection.identity]
        self._abandon(connection, Cancelled("cancelled: the client went away"))

    def _forget_if_idle(self, connection: Connection) -> None:
        if not connection.gone and not connection.in_flight and not connection.undelivered:
            del self._connections[connection.identity]
