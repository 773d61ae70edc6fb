"""What a client knows and decides, without any socket or clock: `Link` is its driver.

The driver sends what `tick` returns, passes what arrives to `receive`, and hands every `Reply` to whoever waits for
that id. Each request ends in exactly one `Finished` or `Failed`, whatever happens to the server.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

from edge_runtime.engine.events import Delta, Failed, Finished
from edge_runtime.errors import BadParameter, ConnectionLost, EdgeError, ProtocolError, TimedOut
from edge_runtime.serving import messages as wire
from edge_runtime.serving.address import why_unreachable
from edge_runtime.serving.conversion import error_from_wire

logger = logging.getLogger(__name__)

Reply = Delta | Finished | Failed | wire.InfoReply | wire.SessionReply

_MAX_PING_INTERVAL_S = 5.0
_NEEDED_TYPES = ("delta", "finished", "failed", "info_reply", "session_reply")
"""Messages that a request cannot do without."""


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

    @property
    def due_s(self) -> float:
        return float("inf") if self.limit_s is None else self.since_s + self.limit_s


class ClientCore:
    """The requests in flight of one connection. Times are seconds of any steady clock, given by the driver."""

    def __init__(self, address: str, timeouts: Timeouts) -> None:
        self._address = address
        self._timeouts = timeouts
        self._waiting: dict[str, _Waiting] = {}
        self._last_heard_s = 0.0
        self._next_ping_s = 0.0
        self._ping_interval_s = _MAX_PING_INTERVAL_S

    @property
    def idle(self) -> bool:
        """Whether nothing is in flight."""
        return not self._waiting

    def begin(self, request_id: str, now_s: float) -> None:
        """A request (or an `Info`) is about to be sent."""
        if self.idle:
            self._last_heard_s = now_s
            self._next_ping_s = now_s + self._ping_interval_s
        self._waiting[request_id] = _Waiting("accept", now_s, self._timeouts.connect_s, ConnectionLost)

    def forget(self, request_id: str) -> bool:
        """Nobody waits for this request any more; True if it was in flight, so that a `Cancel` should be sent."""
        return self._waiting.pop(request_id, None) is not None

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
            self._waiting[message.request_id] = _Waiting("first token", now_s, self._timeouts.first_token_s, TimedOut)
            return []
        if isinstance(message, Delta):
            self._waiting[message.request_id] = _Waiting("next token", now_s, self._timeouts.idle_s, TimedOut)
            return [message]
        del self._waiting[message.request_id]
        return [Failed(message.request_id, error_from_wire(message)) if isinstance(message, wire.Failed) else message]

    def tick(self, now_s: float) -> tuple[list[wire.ClientMessage], list[Reply]]:
        """What the passing of time brings: messages to send, and requests that have waited too long."""
        messages: list[wire.ClientMessage] = []
        replies: list[Reply] = []
        for request_id, waiting in list(self._waiting.items()):
            if now_s >= waiting.due_s:
                del self._waiting[request_id]
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
            self._waiting[request_id] = replace(waiting, since_s=waiting.since_s + late_s)

    def lose(self, what: str) -> list[Reply]:
        """The connection is lost: everything in flight fails."""
        lost = list(self._waiting)
        self._waiting.clear()
        return [Failed(request_id, ConnectionLost(f"{what}; send the request again")) for request_id in lost]

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
        del self._waiting[found.request_id]
        return [Failed(found.request_id, ProtocolError(f"the server sent a damaged {found.type!r} message: {why}"))]
