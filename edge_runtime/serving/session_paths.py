"""Which files a server reads and writes for its clients. Knows no session.

A path is a right to the server's files. Over a socket in the file system its mode says who has that; over TCP every
user of the machine can connect, so there it is only one folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge_runtime.engine.kept_sessions import KEPT_SUFFIX
from edge_runtime.engine.session_file import PARTIAL_SUFFIX
from edge_runtime.errors import SessionFileError
from edge_runtime.serving.address import ipc_name


@dataclass(frozen=True, slots=True)
class SessionPath:
    """Where a session is saved to or restored from."""

    path: Path
    is_ours: bool
    """Whether it lies in a folder to which nobody but the server writes."""


def session_path(text: str, address: str, folder: Path | None) -> SessionPath:
    """The file that a client names, if a server at `address` with the folder of --keep-sessions may use it.

    Raises `SessionFileError`.
    """
    path = Path(text)
    if "\0" in text or not path.is_absolute() or path.name in ("", ".."):
        raise SessionFileError(f"{text!r:.200} is not the absolute path of a file; give one, as /home/me/chat.session")
    try:
        # Of the file itself a link is no session (session_file.py); of its folder every link is followed here.
        path = path.parent.resolve(strict=True) / path.name
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        raise SessionFileError(f"there is no folder {str(path.parent)!r:.200}; make it, or choose another") from error
    is_ours = path.parent == folder
    if path.name.endswith((KEPT_SUFFIX, PARTIAL_SUFFIX)):
        raise SessionFileError(f"names in {KEPT_SUFFIX} and {PARTIAL_SUFFIX} are the server's own; choose another")
    name = ipc_name(address)
    if not is_ours and (name is None or name.startswith("\0")):
        raise SessionFileError(
            "sessions are saved and restored only as files in "
            + (f"{folder}" if folder is not None else "the folder of `serve --keep-sessions DIR`")
            + ", because every user of this machine may connect to this server; or serve at --bind ipc:///PATH"
        )
    return SessionPath(path, is_ours)
