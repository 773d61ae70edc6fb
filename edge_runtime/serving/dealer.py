"""A client's DEALER socket. Used by one thread.

A connection that was lost is thrown away, never mended: what is still in its queues belongs to failed requests.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import zmq
from zmq.utils.monitor import recv_monitor_message

from edge_runtime.errors import ConnectionLost, ServerError
from edge_runtime.serving.descriptors import need_descriptors

_OPTIONS = {
    zmq.LINGER: 0,
    zmq.RECONNECT_IVL: 50,  # ms: a server that is just starting is found soon,
    zmq.RECONNECT_IVL_MAX: 1000,  # one that is down is not bothered
    zmq.HEARTBEAT_IVL: 0,  # `ClientCore` notices a server that says nothing, also after this process was stopped
}


class Dealer:
    """A socket that connects in the background, and the monitor that says when the connection has ended."""

    def __init__(self, address: str) -> None:
        """Begin to connect. Raises `ConnectionLost` if this process cannot open a socket now."""
        try:
            need_descriptors()
            self.socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        except (ServerError, zmq.ZMQError) as error:
            raise ConnectionLost(f"cannot connect to {address}: {error}") from error
        try:
            for option, value in _OPTIONS.items():
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
