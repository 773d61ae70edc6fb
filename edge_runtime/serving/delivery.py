"""Getting messages to clients that may be slow, silent or gone, without ever waiting for one. Knows no engine.

A client that does not read, or says nothing, or has gone, loses its work; but the ending of each of its requests is
kept for it as long as it is connected. docs/protocol.md, "Liveness", is the same told to clients.
"""

from __future__ import annotations

import enum
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from edge_runtime.engine.events import Event, Failed
from edge_runtime.errors import Cancelled, EdgeError
from edge_runtime.serving import messages as wire
from edge_runtime.serving.conversion import event_to_wire
from edge_runtime.serving.router import Router, Sent
from edge_runtime.serving.sessions import InFlight, Session, SessionTable
from edge_runtime.serving.summary import Summary

_MAX_REFUSALS_KEPT = 1000
"""Answers to what was refused, kept for a client that does not read: it may ask on all the same, so they are bounded.
The endings of requests that were accepted are all kept; nothing is accepted while any answer is."""


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
    lost: int = 0
    """Ended with nobody left to tell."""
    refused: int = 0
    """Messages that led to nothing: malformed, too large, overloaded, shutting down."""


class Delivery:
    """Sends, and notices who cannot be sent to. `cancel` gets the engine id of work that nobody waits for."""

    def __init__(
        self, router: Router, sessions: SessionTable, cancel: Callable[[str], None], tally: Tally, log: Summary
    ) -> None:
        self._router = router
        self._sessions = sessions
        self._cancel = cancel
        self._tally = tally
        self._log = log
        self._last_heartbeat_s = 0.0

    def post(self, identity: bytes, message: wire.ServerMessage, *, keep: Keep = Keep.NO) -> None:
        """Send one message, or keep it for later if it is the last of its kind and the client does not read."""
        session = self._sessions.find(identity)
        if session is None:
            session = self._sessions.open(identity, time.monotonic())
        payload = wire.encode(message)
        if session.undelivered:
            self._keep(session, payload, keep)
            return
        sent = self._router.send(identity, payload)
        if sent is Sent.GONE:
            self._lose(session)
            return
        if sent is Sent.FULL:
            self.abandon(session, Cancelled("cancelled: the client does not read its messages and its queue is full"))
            self._keep(session, payload, keep)
        self._sessions.forget_if_idle(session)

    def deliver(self, event: Event) -> None:
        """Send an event of the engine to the client whose request it belongs to."""
        request = self._sessions.request(event.request_id)
        if request is None:
            return
        if isinstance(event, Failed) and isinstance(event.error, Cancelled) and request.reason is not None:
            event = Failed(event.request_id, request.reason)
        message = event_to_wire(event, request.client_id)
        if isinstance(message, wire.Delta):
            if request.reason is None:
                self.post(request.session.identity, message)
            return
        self._sessions.end(request)
        if request.session.gone:
            self._tally.lost += 1
            return
        if isinstance(message, wire.Finished):
            self._tally.finished += 1
        else:
            self._tally.failed += 1
        self.post(request.session.identity, message, keep=Keep.ENDING)

    def heartbeat(self, now_s: float, client_timeout_s: float) -> None:
        """Tell every waiting client that we are here; whoever cannot be reached, or is silent, loses its work."""
        if (
            now_s - self._last_heartbeat_s > client_timeout_s
        ):  # we slept: what clients said meanwhile is still to be read
            for session in self._sessions.sessions():
                session.last_heard_s = now_s
        self._last_heartbeat_s = now_s
        for session in self._sessions.sessions():
            silent_s = now_s - session.last_heard_s
            if silent_s > client_timeout_s:
                self.abandon(session, Cancelled(f"cancelled: nothing was heard from the client for {silent_s:.1f} s"))
            self._flush(session)
            if not session.gone and not session.undelivered:
                self.post(session.identity, wire.Pong())

    def flush(self) -> bool:
        """Try again to deliver what slow clients have not taken; whether some of it is left."""
        for session in self._sessions.sessions():
            self._flush(session)
            self._sessions.forget_if_idle(session)
        return any(session.undelivered for session in self._sessions.sessions())

    def abandon(self, session: Session, reason: EdgeError) -> None:
        """Cancel all work of a session, for a reason that its endings will name."""
        for request in list(session.in_flight.values()):
            self.give_up(request, reason)

    def give_up(self, request: InFlight, reason: EdgeError) -> None:
        """Cancel one request, for a reason that its ending will name."""
        if request.reason is None:
            self._log.note(logging.INFO, reason.code, f"request {request.engine_id}: {reason}")
            request.reason = reason
            self._cancel(request.engine_id)

    def _keep(self, session: Session, payload: bytes, keep: Keep) -> None:
        if keep is Keep.ENDING or (keep is Keep.REFUSAL and len(session.undelivered) < _MAX_REFUSALS_KEPT):
            session.undelivered.append(payload)

    def _flush(self, session: Session) -> None:
        """Try again to deliver the endings that a slow client has not taken."""
        while session.undelivered:
            sent = self._router.send(session.identity, session.undelivered[0])
            if sent is Sent.GONE:
                self._lose(session)
            if sent is not Sent.OK:
                return
            session.undelivered.popleft()

    def _lose(self, session: Session) -> None:
        """The client is gone: stop its work."""
        if session.in_flight:
            self._log.note(logging.INFO, "gone", f"a client went away with {len(session.in_flight)} requests in flight")
        self._sessions.lose(session)
        self.abandon(session, Cancelled("cancelled: the client went away"))
