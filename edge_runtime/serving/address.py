"""Addresses a server may listen at and a client may talk to. Knows nothing of what is said there.

Requests carry screenshots in clear, so only this machine is allowed: loopback TCP, and ipc (Unix sockets).
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import stat
from pathlib import Path

from edge_runtime.errors import AddressInUse, BadParameter, ServerError

DEFAULT_ADDRESS = "tcp://127.0.0.1:5633"

_TCP = re.compile(r"tcp://(?:\[(?P<ipv6>[^\]]+)\]|(?P<host>[^\[\]:/]+)):(?P<port>\*|\d{1,5})")
_MAX_IPC_BYTES = 107
"""Length of `sun_path` on Linux, less its terminating zero (unix(7))."""


def check_address(address: str, *, wildcard_port: bool) -> str:
    """Return `address` if this process may use it; `wildcard_port` allows `tcp://127.0.0.1:*`.

    Raises `BadParameter` for a malformed address, and for one that other machines can reach.
    """
    if not isinstance(address, str):
        raise BadParameter(f"the address is of type {type(address).__name__}; wanted a string, as {DEFAULT_ADDRESS!r}")
    if address.startswith("ipc://"):
        path = address.removeprefix("ipc://")
        if "\0" in path or not 1 <= len(path.encode(errors="surrogateescape")) <= _MAX_IPC_BYTES:
            raise BadParameter(f"{address!r}: the path of an ipc address takes 1 to {_MAX_IPC_BYTES} bytes")
        return address
    match = _TCP.fullmatch(address)
    if match is None:
        raise BadParameter(f"{address!r} is not an address; wanted {DEFAULT_ADDRESS} or ipc:///run/edge.sock")
    port = match["port"]
    if not (port == "*" and wildcard_port) and not (port != "*" and 1 <= int(port) <= 65535):
        raise BadParameter(f"{address!r}: the port must be a number from 1 to 65535")
    if not _is_loopback(match["ipv6"] or match["host"]):
        raise BadParameter(
            f"{address!r} can be reached from other machines, and this release cannot encrypt; "
            "use 127.0.0.1 or ipc:// (and for another machine an SSH tunnel)"
        )
    return address


def ipc_name(address: str) -> str | None:
    """The name a checked `ipc://` address has for the system, an abstract ones included; None for TCP."""
    if not address.startswith("ipc://"):
        return None
    path = address.removeprefix("ipc://")
    return path.replace("@", "\0", 1) if path.startswith("@") else path


def tcp_endpoint(address: str) -> tuple[str, int]:
    """Host and port of a checked `tcp://` address; port 0 for `*`."""
    match = _TCP.fullmatch(address)
    assert match is not None
    port = match["port"]
    return match["ipv6"] or match["host"], 0 if port == "*" else int(port)


def why_unreachable(address: str) -> str:
    """What can be seen of why nobody answers at a checked address: a file that is not there, or rights; else empty."""
    name = ipc_name(address)
    if name is None or name.startswith("\0"):
        return ""
    if not os.path.lexists(name):
        return f"there is no socket {name}"
    return (
        "" if os.access(name, os.W_OK) else f"this user may not connect to {name} (serve --socket-mode, --socket-group)"
    )


def is_address(text: str) -> bool:
    """Whether `text` is meant as an address rather than as a path."""
    return "://" in text


def refuse_live_ipc(address: str) -> None:
    """Raise `AddressInUse` if a server answers at an `ipc://` path.

    What is left there, if anything, is the file of a server that has died.
    Raises `ServerError` where that cannot be asked, and `BadParameter` where the path is taken by something that is
    not a socket, which must not be deleted.
    """
    name = ipc_name(address)
    assert name is not None
    try:
        if not name.startswith("\0") and not stat.S_ISSOCK(Path(name).lstat().st_mode):
            raise BadParameter(f"{address!r}: {name} exists and is not a socket; choose another path")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            probe.connect(name)
    except (ConnectionRefusedError, FileNotFoundError):
        return
    except PermissionError as error:
        raise ServerError(
            f"{address} belongs to another user ({error.strerror}); choose another --bind address"
        ) from error
    except BlockingIOError:
        pass  # its backlog is full: somebody listens
    raise AddressInUse(f"another server already listens at {address}; stop it, or choose another --bind address")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
