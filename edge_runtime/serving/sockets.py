"""What the server's and the client's thread poll: the ROUTER, the DEALER, and a pair that wakes them.

zmq_setsockopt(3) explains the options; docs/protocol.md says what they mean for clients. Each socket is one thread's.
"""

from __future__ import annotations

import contextlib
import enum
import os
import socket
from collections.abc import Iterator, Sequence

import zmq
from zmq.utils.monitor import recv_monitor_message

from edge_runtime.errors import ConnectionLost, ServerError
from edge_runtime.serving.address import check_address
from edge_runtime.serving.listener import Listener
from edge_runtime.serving.settings import ServerSettings

_EVENTS_PER_TURN = 1000
_HANDSHAKE_MS = 10_000
"""How long a connection may take to say that it speaks ZeroMQ, and hold a descriptor meanwhile."""
_LINGER_MS = 1000
"""How long the last messages may take to leave when the server stops."""
_UNREAD_INCOMING = 16
"""Messages per client that libzmq reads ahead of us; each can be `max_message_bytes`."""
_DEALER_OPTIONS = {
    zmq.LINGER: 0,
    zmq.RECONNECT_IVL: 50,  # ms: a server that is just starting is found soon,
    zmq.RECONNECT_IVL_MAX: 1000,  # one that is down is not bothered
    zmq.HEARTBEAT_IVL: 0,  # `ClientCore` notices a server that says nothing, also after this process was stopped
}
_NEEDED_DESCRIPTORS = 16
"""What a first ZeroMQ socket takes (threads of its context, mailboxes, monitor, connection), and some to spare."""


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
        _need_descriptors()
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


class Dealer:
    """A client's socket, which connects in the background, and the monitor that says when the connection has ended.

    A connection that was lost is thrown away, never mended: what is still in its queues belongs to failed requests.
    """

    def __init__(self, address: str) -> None:
        """Begin to connect. Raises `ConnectionLost` if this process cannot open a socket now."""
        try:
            _need_descriptors()
            self.socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        except (ServerError, zmq.ZMQError) as error:
            raise ConnectionLost(f"cannot connect to {address}: {error}") from error
        try:
            for option, value in _DEALER_OPTIONS.items():
                self.socket.setsockopt(option, value)
            self.socket.setsockopt(zmq.IPV6, int("[" in address))
            self.monitor: zmq.Socket[bytes] = self.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
            self.socket.connect(address)
        except BaseException as error:
            self.socket.close(0)
            if isinstance(error, zmq.ZMQError):
                raise ConnectionLost(f"cannot connect to {address}: {error}") from error
            raise

    def send(self, frames: Sequence[bytes]) -> bool:
        """Queue a message without a copy; False if the server takes so little that the queue is full."""
        try:
            self.socket.send_multipart(frames, zmq.DONTWAIT, copy=False)
        except zmq.Again:
            return False
        return True

    def receive(self) -> Iterator[list[bytes]]:
        """All messages that have arrived."""
        with contextlib.suppress(zmq.Again):
            while True:
                yield self.socket.recv_multipart(zmq.DONTWAIT)

    def ended(self) -> bool:
        """Whether the connection has ended since the last call. What arrived before can still be received."""
        ended = False
        with contextlib.suppress(zmq.Again):
            while True:
                recv_monitor_message(self.monitor, zmq.DONTWAIT)
                ended = True
        return ended

    def close(self) -> None:
        """Close at once, with whatever is still queued."""
        self.socket.disable_monitor()
        self.monitor.close(0)
        self.socket.close(0)


def _need_descriptors() -> None:
    """Raise `ServerError`, which is retryable, unless a ZeroMQ socket can be made.

    libzmq aborts the process where it finds too late that it may open no more files.
    """
    opened: list[int] = []
    try:
        opened.append(os.open(os.devnull, os.O_RDONLY))
        while len(opened) < _NEEDED_DESCRIPTORS:
            opened.append(os.dup(opened[0]))
    except OSError as error:
        raise ServerError(
            f"cannot open a socket: {error.strerror}; close files that are not in use, or raise the limit (ulimit -n)"
        ) from error
    finally:
        for descriptor in opened:
            os.close(descriptor)


class Wakeup:
    """Wakes whoever waits in a poll, from any other thread or from a signal handler: a byte in a socket pair.

    `set` makes `fileno` readable until `clear`; many sets before a clear are one.
    """

    __slots__ = ("_reader", "_writer")

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def fileno(self) -> int:
        """The descriptor to poll for reading."""
        return self._reader.fileno()

    def writer(self) -> int:
        """A new descriptor for who wakes by writing a byte, as `signal.set_wakeup_fd` does. Never blocks."""
        return os.dup(self._writer.fileno())

    def set(self) -> None:
        """Wake the poller. Never blocks; does nothing after `close`."""
        # A full pair is a set one; a closed one has nobody left to wake.
        with contextlib.suppress(OSError):
            self._writer.send(b"\0")

    def clear(self) -> None:
        """Take what was set; call it before looking for what it announced, so that nothing is missed."""
        with contextlib.suppress(BlockingIOError):
            while self._reader.recv(4096):
                pass

    def close(self) -> None:
        """Release both descriptors. Idempotent."""
        self._reader.close()
        self._writer.close()
