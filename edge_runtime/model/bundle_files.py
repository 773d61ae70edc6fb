"""Files of a folder that comes from outside: only regular ones, inside it, under plain names, of a size we expect.

Knows nothing of what is in them.
"""

from __future__ import annotations

import json
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

from edge_runtime.errors import BundleError

_MAX_NAME_BYTES = 255
"""What file systems take."""


def is_plain_name(name: str) -> bool:
    """Whether `name` is that of a file in a folder itself: no path, nothing a terminal or a file system trips over."""
    if not is_clean_text(name) or set(name) & {"/", "\\"}:
        return False
    return name not in ("", ".", "..") and len(name.encode()) <= _MAX_NAME_BYTES


def is_clean_text(text: str) -> bool:
    """Whether `text` has no control characters and no lone surrogates."""
    return not any(ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0 or 0xD800 <= ord(char) < 0xE000 for char in text)


def regular_file_size(folder: Path, name: str) -> int:
    """Size in bytes of the file `name` in `folder`.

    A link counts as what it leads to, and may not lead out of the folder. Raises `BundleError` if the file is missing,
    is none that holds bytes (a folder, a pipe, a device), or lies elsewhere.
    """
    path = folder / name
    try:
        if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
            raise BundleError(
                f"{folder}: {name} is a link that leads out of the folder, to {path.resolve()}, and may not; copy the "
                "files themselves (cp -rL, or hf download --local-dir)"
            )
        status = path.stat()
    except FileNotFoundError as error:
        raise BundleError(f"{folder}: {name} is missing; copy the bundle again, or export it again") from error
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: links in a circle
        raise BundleError(f"{folder}: {name} cannot be read: {error}; copy the bundle again") from error
    if not stat.S_ISREG(status.st_mode):
        raise BundleError(f"{folder}: {name} is not a regular file; copy the bundle again, or export it again")
    return status.st_size


def read_regular(path: Path, max_bytes: int) -> bytes:
    """All of the regular file `path`; never waits, as opening a pipe would.

    Raises `BundleError` if it is none, or has more than `max_bytes`, and `OSError`.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise BundleError(f"{path} is not a regular file; copy the bundle again")
        if status.st_size > max_bytes:
            raise BundleError(f"{path} has {status.st_size} bytes, {max_bytes} are allowed; export the bundle again")
        return file.read(max_bytes)


def replace_file(path: Path, data: bytes) -> None:
    """Put `data` at `path` in one step, on the disk when it is there; a failure leaves what was. Raises `OSError`."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def check_distinct(text: bytes) -> None:
    """Raise `ValueError` if an object of the JSON `text` has a name twice: which counted would be anybody's guess.

    Raises `RecursionError` for one that is nested deeper than Python can go.
    """
    json.loads(text, object_pairs_hook=_distinct)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"an object has {next(name for name in names if names.count(name) > 1)!r} twice")
    return found
