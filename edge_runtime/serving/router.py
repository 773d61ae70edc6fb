"""The server's ROUTER socket: binding it, and sending to clients that may be slow or gone. Used by one thread.

zmq_setsockopt(3) explains the options; docs/protocol.md says what they mean for clients.
"""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Iterator

import zmq
from zmq.utils.monitor import recv_monitor_message

from edge_runtime.errors import ServerError
from edge_runtime.serving.address import check_address
from edge_runtime.serving.descriptors import need_descriptors
from edge_runtime.serving.listener import Listener
from edge_runtime.serving.settings import ServerSettings

_EVENTS_PER_TURN = 1000
_HANDSHAKE_MS = 10_000
"""How long a connection may take to say that it speaks ZeroMQ, and hold a descriptor meanwhile."""
_LINGER_MS = 1000
"""How long the last messages may take to leave when the server stops."""
_UNREAD_INCOMING = 16
"""Messages per client that libzmq reads ahead of us; each can be `max_message_bytes`."""


class Sent(enum.Enum):
    """What became of a message."""

    OK = enum.auto()
    FULL = enum.auto()
    """The client does not read, and its queue is full; the message was not taken."""
    GONE = enum.auto()
    """There is no such connection any more."""


class Router:
    """A bound ROUTER socket, and the monitor that says when connections end; both are there to be polled."""

    def __init__(self, settings: ServerSettings) -> None:
        """Bind. Raises `BadParameter`, `AddressInUse` or `ServerError`."""
        address = check_address(settings.bind, wildcard_port=True)
        need_descriptors()
        self._listener = Listener(address, settings.socket_mode, settings.socket_group)
        self.num_turned_away = 0
        self._context = zmq.Context()
        self.socket = self._context.socket(zmq.ROUTER)
        events = zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED
        self.monitor: zmq.Socket[bytes] = self.socket.get_monitor_socket(events)
        try:
            self._configure(settings)
            self.socket.setsockopt(zmq.USE_FD, self._listener.duplicate())
            self.socket.bind(address)
        except zmq.ZMQError as error:
            self.close(linger_ms=0)
            raise ServerError(f"cannot listen at {address}: {error}") from error
        self.address = self.socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def _configure(self, settings: ServerSettings) -> None:
        options = {
            zmq.ROUTER_MANDATORY: 1,  # say so when a client is gone or full, instead of dropping silently
            zmq.SNDHWM: settings.max_unread_messages,
            zmq.RCVHWM: _UNREAD_INCOMING,
            # Beyond this libzmq cuts the connection; in between, the client is told what was too large.
            zmq.MAXMSGSIZE: 2 * max(settings.limits.max_frame_bytes, settings.limits.max_header_bytes),
            # No ZMTP heartbeat: a client that does not read cannot answer one, and would lose its endings with the
            # connection. Nobody else is cut off from this machine without the system telling us.
            zmq.HEARTBEAT_IVL: 0,
            zmq.HANDSHAKE_IVL: _HANDSHAKE_MS,
            zmq.IPV6: int("[" in settings.bind),
        }
        for option, value in options.items():
            self.socket.setsockopt(option, value)

    def receive(self, limit: int) -> Iterator[tuple[bytes, list[memoryview]]]:
        """Up to `limit` waiting messages: the sender's identity, and its frames without a copy."""
        for _ in range(limit):
            try:
                identity, *frames = self.socket.recv_multipart(zmq.DONTWAIT, copy=False)
            except zmq.Again:
                return
            yield identity.bytes, [frame.buffer for frame in frames]

    def send(self, identity: bytes, payload: bytes) -> Sent:
        """Send one message without ever blocking."""
        try:
            self.socket.send_multipart([identity, payload], zmq.DONTWAIT)
        except zmq.Again:
            return Sent.FULL
        except zmq.ZMQError as error:
            if error.errno == zmq.EHOSTUNREACH:
                return Sent.GONE
            raise
        return Sent.OK

    def watch_connections(self) -> bool:
        """Turn away connections that the process has no descriptors for.

        Returns whether any connection has ended since the last call; the monitor does not say whose.
        """
        ended = False
        with contextlib.suppress(zmq.Again):
            for _ in range(_EVENTS_PER_TURN):
                event = recv_monitor_message(self.monitor, zmq.DONTWAIT)
                if event["event"] == zmq.EVENT_ACCEPTED:
                    self.num_turned_away += self._listener.turn_away(event["value"])
                else:
                    ended = True
        return ended

    def close(self, linger_ms: int = _LINGER_MS) -> None:
        """Close the socket, giving the last messages `linger_ms` to leave. Idempotent."""
        if not self.socket.closed:
            self._listener.close()
            self.socket.disable_monitor()
            self.monitor.close(0)
            self.socket.close(linger_ms)
            self._context.term()
