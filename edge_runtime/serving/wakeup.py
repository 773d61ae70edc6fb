"""Wakes a thread that waits in a poll, from any other thread or from a signal handler. Knows no ZeroMQ."""

from __future__ import annotations

import contextlib
import socket


class Wakeup:
    """A byte in a socket pair: `set` makes `fileno` readable until `clear`. Many sets before a clear are one."""

    __slots__ = ("_reader", "_writer")

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def fileno(self) -> int:
        """The descriptor to poll for reading."""
        return self._reader.fileno()

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
