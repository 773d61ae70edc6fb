"""A client's DEALER socket. Used by one thread.

A connection that was lost is thrown away, never mended: what is still in its queues belongs to failed requests.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import zmq
from zmq.utils.monitor import recv_monitor_message

_OPTIONS = {
    zmq.LINGER: 0,
    zmq.RECONNECT_IVL: 50,  # ms: a server that is just starting is found soon,
    zmq.RECONNECT_IVL_MAX: 1000,  # one that is down is not bothered
    zmq.HEARTBEAT_IVL: 2000,
    zmq.HEARTBEAT_TIMEOUT: 6000,
}


class Connection:
    """A socket that connects in the background, and the monitor that says when the connection has ended."""

    def __init__(self, address: str) -> None:
        self.socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        for option, value in _OPTIONS.items():
            self.socket.setsockopt(option, value)
        self.socket.setsockopt(zmq.IPV6, int("[" in address))
        self.monitor: zmq.Socket[bytes] = self.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self.socket.connect(address)

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
