"""Renames that cannot replace anything, and folders brought to the disk. Knows nothing of bundles."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from contextlib import suppress
from pathlib import Path

_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
_CANNOT = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)
"""What kernels and file systems answer that do not know `RENAME_NOREPLACE`."""


def rename_new(source: Path, target: Path) -> None:
    """Rename the folder `source` to `target` in one step. Raises `FileExistsError` if anything is there, or `OSError`.

    Where the system has no such rename, `target` is made as an empty folder first, which fails if there is anything,
    and the rename can then replace nothing but that: a folder with something in it is never replaced (POSIX).
    """
    if _rename_without_replacing(source, target):
        return
    if sys.platform == "win32":  # never replaces
        source.rename(target)
        return
    target.mkdir()
    try:
        source.rename(target)
    except OSError as error:
        with suppress(OSError):  # somebody put something in
            target.rmdir()
        if error.errno == errno.ENOTEMPTY:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
        raise


def sync_folder(folder: Path) -> None:
    """Wait until the names in `folder` are on the disk, where the file system can tell. Raises `OSError`."""
    if sys.platform == "win32":  # has no such call
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def _rename_without_replacing(source: Path, target: Path) -> bool:
    """Linux's `renameat2`; False where there is no such call, or this file system does not know it."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    paths = _AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target)
    if renameat2(*paths, _RENAME_NOREPLACE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _CANNOT:
        return False
    raise OSError(number, os.strerror(number), str(source), None, str(target))
