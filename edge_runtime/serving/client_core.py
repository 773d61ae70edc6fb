"""What a client knows and decides, without any socket or clock: `Link` is its driver.

The driver sends what `tick` returns, passes what arrives to `receive`, and hands every `Reply` to whoever waits for
that id. Each request ends in exactly one `Finished` or `Failed`, whatever happens to the server.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

from edge_runtime.engine.events import Delta, Failed, Finished
from edge_runtime.errors import BadParameter, Cancelled, ConnectionLost, EdgeError, ProtocolError, TimedOut
from edge_runtime.serving import messages as wire
from edge_runtime.serving.address import why_unreachable
from edge_runtime.serving.conversion import error_from_wire
from edge_runtime.serving.outgoing import Outgoing, SentPictures

logger = logging.getLogger(__name__)

Reply = Delta | Finished | Failed | wire.InfoReply | wire.SessionReply

_MAX_PING_INTERVAL_S = 5.0
_NEEDED_TYPES = ("delta", "finished", "failed", "need", "info_reply", "session_reply")
"""Messages that a request cannot do without."""
_NOTHING = Outgoing(b"")


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long to wait for a server, in seconds; None waits for ever. A request that waits longer is cancelled."""

    connect_s: float | None = 5.0
    """Until the server has accepted (or refused) the request: `ConnectionLost`."""
    first_token_s: float | None = 600.0
    """From then to the first token, through queue, images and prefill: `TimedOut`."""
    idle_s: float | None = 120.0
    """Between two pieces of an answer: `TimedOut`."""
    server_silence_s: float = 20.0
    """Without any sign of life, heartbeats included, while a request waits: `ConnectionLost`."""

    def __post_init__(self) -> None:
        """Raise `BadParameter` for what is no time."""
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if value is None and name != "server_silence_s":
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
                raise BadParameter(f"timeout {name} is {value!r}; it must be seconds, more than 0")


@dataclass(frozen=True, slots=True)
class _Waiting:
    """What a request waits for, since when, and how long it may."""

    stage: str
    since_s: float
    limit_s: float | None
    timeout: type[EdgeError]
    accepted_s: float | None = None
    """When the server first accepted it."""

    @property
    def due_s(self) -> float:
        return float("inf") if self.limit_s is None else self.since_s + self.limit_s


class ClientCore:
    """The requests in flight of one connection. Times are seconds of any steady clock, given by the driver."""

    def __init__(self, address: str, timeouts: Timeouts) -> None:
        self._address = address
        self._timeouts = timeouts
        self._waiting: dict[str, _Waiting] = {}
        self._pictures = SentPictures()
        self._again: list[tuple[str, list[bytes]]] = []
        self._cancelled: set[str] = set()
        self._last_heard_s = 0.0
        self._next_ping_s = 0.0
        self._ping_interval_s = _MAX_PING_INTERVAL_S

    @property
    def idle(self) -> bool:
        """Whether nothing is in flight."""
        return not self._waiting

    def begin(self, request_id: str, now_s: float, outgoing: Outgoing = _NOTHING) -> list[bytes]:
        """A request (or an `Info`) is about to be sent; returns its frames."""
        if self.idle:
            self._last_heard_s = now_s
            self._next_ping_s = now_s + self._ping_interval_s
        self._waiting[request_id] = _Waiting("accept", now_s, self._timeouts.connect_s, ConnectionLost)
        return self._pictures.message(request_id, outgoing)

    def cancel(self, request_id: str) -> None:
        """A `Cancel` is about to be sent; a request that the server wants again by then is not sent again."""
        if request_id in self._waiting:
            self._cancelled.add(request_id)

    def forget(self, request_id: str) -> bool:
        """Nobody waits for this request any more; True if it was in flight, so that a `Cancel` should be sent."""
        self._pictures.ended(request_id)
        self._cancelled.discard(request_id)
        return self._waiting.pop(request_id, None) is not None

    def take_again(self) -> list[tuple[str, list[bytes]]]:
        """Requests to be sent once more, whole: the id and the frames of each."""
        again, self._again = self._again, []
        return again

    def receive(self, frames: list[bytes], now_s: float) -> list[Reply]:
        """What a message from the server means for whom; nothing for requests that are forgotten."""
        self._last_heard_s = now_s
        try:
            message = wire.decode_server_message(frames[0])
        except ValueError as error:
            return self._not_understood(frames[0], str(error))
        if isinstance(message, wire.Failed) and not message.request_id:
            logger.warning("the server complains: %s (%s)", message.message, message.code)
        if isinstance(message, wire.Pong) or message.request_id not in self._waiting:
            return []
        if isinstance(message, wire.Accepted):
            self._ping_interval_s = min(_MAX_PING_INTERVAL_S, message.client_timeout_s / 4)
            self._next_ping_s = min(self._next_ping_s, now_s + self._ping_interval_s)
            self._pictures.accepted(message.request_id, message.takes_digests)
            first_s = self._waiting[message.request_id].accepted_s
            since_s, limit_s = now_s if first_s is None else first_s, self._timeouts.first_token_s
            self._waiting[message.request_id] = _Waiting("first token", since_s, limit_s, TimedOut, since_s)
            return []
        if isinstance(message, Delta):
            self._pictures.ended(message.request_id)
            self._waiting[message.request_id] = _Waiting("next token", now_s, self._timeouts.idle_s, TimedOut)
            return [message]
        if isinstance(message, wire.Need):
            return self._needed(message.request_id, now_s)
        self.forget(message.request_id)
        return [Failed(message.request_id, error_from_wire(message)) if isinstance(message, wire.Failed) else message]

    def tick(self, now_s: float) -> tuple[list[wire.ClientMessage], list[Reply]]:
        """What the passing of time brings: messages to send, and requests that have waited too long."""
        messages: list[wire.ClientMessage] = []
        replies: list[Reply] = []
        for request_id, waiting in list(self._waiting.items()):
            if now_s >= waiting.due_s:
                self.forget(request_id)
                messages.append(wire.Cancel(request_id=request_id))
                replies.append(Failed(request_id, self._too_late(waiting)))
        if not self.idle and now_s >= self._next_ping_s:
            self._next_ping_s = now_s + self._ping_interval_s
            messages.append(wire.Ping())
        return messages, replies

    def server_is_silent(self, now_s: float) -> bool:
        """Whether the server has given no sign of life for too long while something is in flight; then `lose` it."""
        return not self.idle and now_s >= self._last_heard_s + self._timeouts.server_silence_s

    def next_tick_s(self) -> float | None:
        """When `tick` is next of use; None while nothing is in flight."""
        if self.idle:
            return None
        due_s = min(waiting.due_s for waiting in self._waiting.values())
        return min(due_s, self._next_ping_s, self._last_heard_s + self._timeouts.server_silence_s)

    def postpone(self, late_s: float) -> None:
        """The driver slept so long that nothing could be heard meanwhile: everything is due so much later."""
        self._last_heard_s += late_s
        for request_id, waiting in self._waiting.items():
            accepted_s = None if waiting.accepted_s is None else waiting.accepted_s + late_s
            self._waiting[request_id] = replace(waiting, since_s=waiting.since_s + late_s, accepted_s=accepted_s)

    def lose(self, what: str) -> list[Reply]:
        """The connection is lost: everything in flight fails, and the next server has none of our pictures."""
        lost = list(self._waiting)
        self._waiting.clear()
        self._cancelled.clear()
        self._again.clear()
        self._pictures = SentPictures()
        return [Failed(request_id, ConnectionLost(f"{what}; send the request again")) for request_id in lost]

    def _needed(self, request_id: str, now_s: float) -> list[Reply]:
        """The server has ended a request for want of its pictures: it is sent again with them, once."""
        again = self._pictures.again(request_id)
        if request_id in self._cancelled or again is None:
            error = (
                Cancelled("the request was cancelled") if again else ProtocolError("the server wants pictures it got")
            )
            self.forget(request_id)
            return [Failed(request_id, error)]
        self._again.append((request_id, again))
        accepted_s = self._waiting[request_id].accepted_s
        self._waiting[request_id] = _Waiting("accept", now_s, self._timeouts.connect_s, ConnectionLost, accepted_s)
        return []

    def _too_late(self, waiting: _Waiting) -> EdgeError:
        if waiting.timeout is ConnectionLost:
            reason = why_unreachable(self._address) or "is `edge-runtime serve` running, and has it loaded its model?"
            return ConnectionLost(f"no server answered at {self._address} within {waiting.limit_s:g} s; {reason}")
        return TimedOut(f"no {waiting.stage} within {waiting.limit_s:g} s; the request was cancelled")

    def _not_understood(self, header: bytes, why: str) -> list[Reply]:
        """A message of a newer server is ignored; a known one that is damaged fails its request."""
        found = wire.peek(header)
        if found.type not in _NEEDED_TYPES or found.request_id not in self._waiting:
            logger.warning("ignored a message of the server: %s", why)
            return []
        self.forget(found.request_id)
        return [Failed(found.request_id, ProtocolError(f"the server sent a damaged {found.type!r} message: {why}"))]
