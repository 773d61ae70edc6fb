"""Files of a bundle, hashed while they are written; and files of tensors, each on a page boundary.

Knows nothing of what the tensors are.
"""

from __future__ import annotations

import errno
import hashlib
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from edge_export.errors import DiskFull, ExportError, OptionError
from edge_runtime.model.manifest import FileEntry

PAGE_BYTES = 4096

Piece = NDArray[np.uint8] | NDArray[np.float16] | NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor lies in a file of the bundle."""

    file: str
    offset: int
    dtype: np.dtype[np.uint8] | np.dtype[np.float16] | np.dtype[np.float32]
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Length in bytes, little-endian, row-major."""
        return math.prod(self.shape) * self.dtype.itemsize


class HashedFile:
    """A new file, written once from start to end. After the `with` block it is on the disk and `entry` is known.

    Raises `DiskFull` where there is no room, `OptionError` where nothing can be written, and `OSError` if the file is
    there already.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.position = 0
        self.entry: FileEntry | None = None
        self._digest = hashlib.sha256()
        self._file = path.open("xb", buffering=0)

    def __enter__(self) -> HashedFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._sync()
                self.entry = FileEntry(size_bytes=self.position, sha256=self._digest.hexdigest())
        finally:
            self._close()

    def write(self, data: bytes | memoryview) -> None:
        """Append `data`."""
        view = memoryview(data).cast("B")
        self._digest.update(view)
        self.position += len(view)
        try:
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            raise _as_export_error(error, self.path) from error

    def _close(self) -> None:
        try:
            self._file.close()
        except OSError as error:  # some network disks only say so now
            raise _as_export_error(error, self.path) from error

    def _sync(self) -> None:
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise _as_export_error(error, self.path) from error


class TensorFile:
    """Tensors one after another in a `HashedFile`, each starting on a page boundary."""

    def __init__(self, file: HashedFile) -> None:
        self.file = file

    def append(self, pieces: Iterable[Piece], shape: tuple[int, ...]) -> StoredTensor:
        """Write one tensor of `shape`, given as contiguous pieces of its rows, all of one dtype."""
        self.file.write(bytes(-self.file.position % PAGE_BYTES))
        offset = self.file.position
        dtype = None
        for piece in pieces:
            dtype = piece.dtype
            self.file.write(np.ascontiguousarray(piece).reshape(-1).view(np.uint8).data)
        assert dtype is not None
        stored = StoredTensor(self.file.path.name, offset, dtype, shape)
        assert self.file.position - offset == stored.num_bytes
        return stored


def is_full(error: OSError) -> bool:
    """Whether the disk, or the user's share of it, is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def _as_export_error(error: OSError, path: Path) -> ExportError:
    if is_full(error):
        return DiskFull(f"the disk is full while writing {path}; free some room, or give an OUT on another disk")
    return OptionError(f"cannot write {path}: {error.strerror or error}; give an OUT on another disk")
