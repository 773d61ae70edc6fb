"""Whether this process may open more files. libzmq aborts the process where it finds too late that it may not."""

from __future__ import annotations

import os

from edge_runtime.errors import ServerError

_NEEDED = 16
"""What a first ZeroMQ socket takes (threads of its context, mailboxes, monitor, connection), and some to spare."""


def need_descriptors() -> None:
    """Raise `ServerError`, which is retryable, unless a ZeroMQ socket can be made."""
    opened: list[int] = []
    try:
        opened.append(os.open(os.devnull, os.O_RDONLY))
        while len(opened) < _NEEDED:
            opened.append(os.dup(opened[0]))
    except OSError as error:
        raise ServerError(
            f"cannot open a socket: {error.strerror}; close files that are not in use, or raise the limit (ulimit -n)"
        ) from error
    finally:
        for descriptor in opened:
            os.close(descriptor)
