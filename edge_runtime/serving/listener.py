"""The socket a server listens with: taking its address, deciding who may connect, giving it back. Knows no ZeroMQ.

It is made here and handed to libzmq (ZMQ_USE_FD), which would delete whatever file it finds at an `ipc` path, both when
it binds and when it closes: also that of another server. And only here can rights be set before anybody can connect.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import grp
import logging
import os
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from edge_runtime.errors import AddressInUse, BadParameter, ServerError
from edge_runtime.serving.address import ipc_name, refuse_live_ipc, tcp_endpoint

logger = logging.getLogger(__name__)

_PRIVATE = 0o600
_BACKLOG = 512
_RESERVED_DESCRIPTORS = 32
"""Descriptors that connections must leave to the rest of the process, or a quarter where few are allowed at all."""
_LOCK_PATIENCE_S = 5.0


class Listener:
    """A bound, listening socket; `ipc` ones with their file."""

    def __init__(self, address: str, mode: int | None, group: str | None) -> None:
        """Take a checked `address`. `mode` and `group` are those of an `ipc` socket's file; None: its user's alone.

        Raises `AddressInUse`, `BadParameter` (a mode or group that cannot be) or `ServerError`.
        """
        self._path: Path | None = None
        self._inode: tuple[int, int] | None = None
        name = ipc_name(address)
        is_file = name is not None and not name.startswith("\0")
        if not is_file and (mode is not None or group is not None):
            raise BadParameter(f"{address} has no file to set a mode or group of; use ipc:///PATH, or leave them out")
        try:
            if name is None:
                self._socket = _bound_tcp(address)
            elif is_file:
                self._path = Path(name)
                self._socket = self._bound_file(address, self._path, _PRIVATE if mode is None else mode, group)
            else:
                refuse_live_ipc(address)
                self._socket = _bound(socket.AF_UNIX, name)
                self._socket.listen(_BACKLOG)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise AddressInUse(
                    f"another process already listens at {address}; stop it, or choose another --bind address"
                ) from error
            raise ServerError(f"cannot listen at {address}: {error.strerror or error}") from error
        self._socket.setblocking(False)
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        reserved = min(_RESERVED_DESCRIPTORS, limit // 4)
        self.max_descriptor = limit - reserved if limit > 0 else None
        """Connections with this number and above are turned away; None: there is no limit."""

    def duplicate(self) -> int:
        """A descriptor of the same socket, for libzmq to own."""
        return os.dup(self._socket.fileno())

    def turn_away(self, descriptor: int) -> bool:
        """End the connection just accepted as `descriptor` if the process is running out of them; True if it did.

        The system gives the lowest free number, so a high one says that all below are in use. Without this a flood of
        connections takes every descriptor, and libzmq's thread then spins on one that it cannot accept.
        """
        if self.max_descriptor is None or descriptor < self.max_descriptor:
            return False
        # It may have ended by itself, and its number may be something else's by now: hence the look at its address.
        with contextlib.suppress(OSError):
            connection = socket.socket(fileno=descriptor)
            try:
                if connection.getsockname() == self._socket.getsockname():
                    connection.shutdown(socket.SHUT_RDWR)
                    return True
            finally:
                connection.detach()  # libzmq's, who closes it when it sees the end
        return False

    def close(self) -> None:
        """Give the address back; the file goes only if it is still ours. Idempotent."""
        if self._socket.fileno() >= 0:
            if self._path is not None:
                with contextlib.suppress(OSError, ServerError), _locked(self._path.parent):
                    # While we listen nobody takes our file for a stale one, and its inode is not given to another.
                    if _inode(self._path) == self._inode:
                        self._path.unlink()
            self._socket.close()

    def _bound_file(self, address: str, path: Path, mode: int, group: str | None) -> socket.socket:
        group_id = -1 if group is None else _group_id(group)
        with _locked(path.parent):  # two servers that find one stale file must not delete each other's
            refuse_live_ipc(address)
            path.unlink(missing_ok=True)
            bound = _bound(socket.AF_UNIX, str(path))
            try:
                # Until it listens nobody can connect, so there is no moment with wrong rights.
                _set_rights(path, mode, group, group_id)
                bound.listen(_BACKLOG)
                self._inode = _inode(path)
            except BaseException:
                path.unlink()
                bound.close()
                raise
        return bound


def _bound_tcp(address: str) -> socket.socket:
    host, port = tcp_endpoint(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = _bound(family, (host, port))
    try:
        bound.listen(_BACKLOG)
    except BaseException:
        bound.close()
        raise
    return bound


def _bound(family: socket.AddressFamily, name: str | tuple[str, int]) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        if family != socket.AF_UNIX:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a restart need not wait for old connections
        made.bind(name)
    except BaseException:
        made.close()
        raise
    return made


def _set_rights(path: Path, mode: int, group: str | None, group_id: int) -> None:
    if group is not None:
        try:
            os.chown(path, -1, group_id)
        except PermissionError as error:
            raise ServerError(
                f"cannot give {path} to the group {group!r}: {error.strerror}; the server's user must be a member of it"
            ) from error
    path.chmod(mode)


def _group_id(group: str) -> int:
    try:
        return int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise BadParameter(f"there is no group {group!r} on this machine") from error


def _inode(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_dev, found.st_ino


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which all our servers take for the moment in which they take or give back a path.

    Raises `ServerError` if another program holds it for seconds, `OSError` if the folder cannot be opened.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        deadline_s = time.monotonic() + _LOCK_PATIENCE_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= deadline_s:
                    raise ServerError(f"another program holds a lock on {folder}; put the socket elsewhere") from error
                time.sleep(0.02)
        yield
    finally:
        os.close(descriptor)
