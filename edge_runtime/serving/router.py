"""The server's ROUTER socket: binding it, and sending to clients that may be slow or gone. Used by one thread.

zmq_setsockopt(3) explains the options; docs/protocol.md says what they mean for clients.
"""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Iterator
from pathlib import Path

import zmq
from zmq.utils.monitor import recv_monitor_message

from edge_runtime.errors import AddressInUse, ServerError
from edge_runtime.serving.address import check_address, refuse_live_ipc
from edge_runtime.serving.settings import ServerSettings

_HEARTBEAT_MS = 2000
_HEARTBEAT_TIMEOUT_MS = 6000
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
    """A bound ROUTER socket, and the monitor that says when connections end."""

    def __init__(self, settings: ServerSettings) -> None:
        """Bind. Raises `BadParameter`, `AddressInUse` or `ServerError`."""
        address = check_address(settings.bind, wildcard_port=True)
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._configure(settings)
        self.monitor: zmq.Socket[bytes] = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        try:
            self._bind(address)
        except BaseException:
            self.close(linger_ms=0)
            raise
        self.address = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def _configure(self, settings: ServerSettings) -> None:
        options = {
            zmq.ROUTER_MANDATORY: 1,  # say so when a client is gone or full, instead of dropping silently
            zmq.SNDHWM: settings.max_unread_messages,
            zmq.RCVHWM: _UNREAD_INCOMING,
            # Beyond this libzmq cuts the connection; in between, the client is told what was too large.
            zmq.MAXMSGSIZE: 2 * max(settings.limits.max_frame_bytes, settings.limits.max_header_bytes),
            zmq.HEARTBEAT_IVL: _HEARTBEAT_MS,
            zmq.HEARTBEAT_TIMEOUT: _HEARTBEAT_TIMEOUT_MS,
            zmq.IPV6: int("[" in settings.bind),
        }
        for option, value in options.items():
            self._socket.setsockopt(option, value)

    def _bind(self, address: str) -> None:
        is_ipc = address.startswith("ipc://")
        if is_ipc:
            refuse_live_ipc(address)
        try:
            self._socket.bind(address)
        except zmq.ZMQError as error:
            if error.errno == zmq.EADDRINUSE:
                raise AddressInUse(
                    f"another process already listens at {address}; stop it, or choose another --bind address"
                ) from error
            raise ServerError(f"cannot listen at {address}: {error}") from error
        if is_ipc and not address.startswith("ipc://@"):
            Path(address.removeprefix("ipc://")).chmod(0o600)  # only this user may connect

    @property
    def socket(self) -> zmq.Socket[bytes]:
        """The socket, for polling."""
        return self._socket

    def receive(self, limit: int) -> Iterator[tuple[bytes, list[memoryview]]]:
        """Up to `limit` waiting messages: the sender's identity, and its frames without a copy."""
        for _ in range(limit):
            try:
                identity, *frames = self._socket.recv_multipart(zmq.DONTWAIT, copy=False)
            except zmq.Again:
                return
            yield identity.bytes, [frame.buffer for frame in frames]

    def send(self, identity: bytes, payload: bytes) -> Sent:
        """Send one message without ever blocking."""
        try:
            self._socket.send_multipart([identity, payload], zmq.DONTWAIT)
        except zmq.Again:
            return Sent.FULL
        except zmq.ZMQError as error:
            if error.errno == zmq.EHOSTUNREACH:
                return Sent.GONE
            raise
        return Sent.OK

    def some_connection_ended(self) -> bool:
        """Whether a connection ended since the last call; the monitor does not say whose."""
        ended = False
        with contextlib.suppress(zmq.Again):
            while True:
                recv_monitor_message(self.monitor, zmq.DONTWAIT)
                ended = True
        return ended

    def close(self, linger_ms: int = _LINGER_MS) -> None:
        """Close the socket, giving the last messages `linger_ms` to leave. Idempotent."""
        if not self._socket.closed:
            self._socket.disable_monitor()
            self.monitor.close(0)
            self._socket.close(linger_ms)
            self._context.term()
