"""The file of a saved session: pieces of bytes, and a header that lists them. Knows nothing of what is in them.

    preamble   magic, version, place and length of the header, length of the file, and a digest of these and the header
    pieces     one behind the other; the header has the length and the digest of each
    header     last, because the digests are known only then

A file is written beside its place and moved there when it is on the disk: whoever looks there finds the old one, the
new one, or none. Every byte of it is under a digest, and a length counts only once it agrees with the file's own.
Digests find damage; who can write the file can make them anew.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import msgspec

from edge_runtime.errors import SessionFileError

MAGIC = b"EDGESESS"
VERSION = 1
PARTIAL_SUFFIX = ".saving"
"""Of files that are being written, which begin with a dot; they are never read."""
MAX_HEADER_BYTES = 16 * 2**20
"""Texts, and token ids; pictures, keys and values are pieces."""

_PREAMBLE = struct.Struct("<8sIQQQ32s")
PREAMBLE_BYTES = _PREAMBLE.size
"""Where the pieces begin."""
_DIGEST_BYTES = 32
_CHUNK_BYTES = 1 << 20


class Piece(msgspec.Struct, frozen=True, array_like=True):
    """Bytes of the file."""

    length: int
    digest: bytes


class SessionFileWriter:
    """Writes the pieces, then the header."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._file.write(bytes(PREAMBLE_BYTES))

    def add(self, data: bytes | memoryview) -> Piece:
        """Write one piece."""
        self._file.write(data)
        return Piece(memoryview(data).nbytes, _digest(data))

    def finish(self, header: bytes) -> None:
        """Write the header, and with it all that makes the file a session. Raises `SessionFileError`."""
        if len(header) > MAX_HEADER_BYTES:
            raise SessionFileError(
                f"the texts of the session take {len(header)} bytes; a file has at most {MAX_HEADER_BYTES}: drop turns"
            )
        offset = self._file.tell()
        self._file.write(header)
        places = (offset, len(header), offset + len(header))
        self._file.seek(0)
        self._file.write(_PREAMBLE.pack(MAGIC, VERSION, *places, _header_digest(places, header)))


class SessionFileReader:
    """A file whose preamble and header are as they were written. Pieces are read in order, each checked."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        """Raises `SessionFileError` for a file that is none of ours, of another version, cut short or changed."""
        self._file = file
        self._name = name
        size = os.fstat(file.fileno()).st_size
        start = file.read(PREAMBLE_BYTES)
        if start[: len(MAGIC)] != MAGIC:
            raise SessionFileError(f"{name} is not a saved session; give a file that session.save() wrote")
        if len(start) < PREAMBLE_BYTES:
            raise self._damaged("it was cut short")
        _, version, offset, length, total, digest = _PREAMBLE.unpack(start)
        if version != VERSION:
            raise SessionFileError(
                f"{name} has format version {version}, this runtime reads {VERSION}; open it with the release that "
                "saved it"
            )
        if total != size:
            raise self._damaged(f"it has {size} bytes in place of {total}")
        if offset < PREAMBLE_BYTES or offset + length != size or length > MAX_HEADER_BYTES:
            raise self._damaged("its header is not where it should be")
        self._num_left = offset - PREAMBLE_BYTES
        file.seek(offset)
        self.header = file.read(length)
        if len(self.header) != length or _header_digest((offset, length, total), self.header) != digest:
            raise self._damaged("its header was changed")
        file.seek(PREAMBLE_BYTES)

    def expect(self, pieces: Iterable[Piece]) -> None:
        """Say what pieces there are, of what the header tells. Raises `SessionFileError` if it is not all there is."""
        lengths = [piece.length for piece in pieces]
        if any(length < 0 for length in lengths) or sum(lengths) != self._num_left:
            raise self._damaged("its pieces are not those of its header")

    def read(self, piece: Piece) -> bytes:
        """The next piece. Raises `SessionFileError` if it was changed."""
        self._begin(piece)
        data = self._file.read(piece.length)
        if len(data) != piece.length or _digest(data) != piece.digest:
            raise self._damaged("a part of it was changed")
        return data

    def skip(self, piece: Piece) -> None:
        """Check the next piece, a little at a time. Raises as `read`."""
        self._begin(piece)
        digest, num_left = hashlib.blake2b(digest_size=_DIGEST_BYTES), piece.length
        while num_left and (data := self._file.read(min(num_left, _CHUNK_BYTES))):
            digest.update(data)
            num_left -= len(data)
        if num_left or digest.digest() != piece.digest:
            raise self._damaged("a part of it was changed")

    def _begin(self, piece: Piece) -> None:
        """Count the next piece as read. Raises `SessionFileError` where there is not so much left."""
        if not 0 <= piece.length <= self._num_left:
            raise self._damaged("its pieces are not those of its header")
        self._num_left -= piece.length

    def _damaged(self, how: str) -> SessionFileError:
        return SessionFileError(f"{self._name} is damaged: {how}; copy it again, or save the session again")


@contextmanager
def writing(path: Path) -> Iterator[SessionFileWriter]:
    """Write the session file `path`: it is there, whole, once the block has ended; until then what was there stays.

    Raises `SessionFileError` where it cannot be written, and rather than replace what is no saved session.
    """
    _refuse_other(path)
    partial = path.with_name(f".{path.name}{PARTIAL_SUFFIX}")
    with _explained(path, "written"), _open_partial(partial) as file:
        try:
            yield SessionFileWriter(file)
            file.flush()
            os.fsync(file.fileno())
            _refuse_other(path)
            partial.replace(path)
        except BaseException:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def reading(path: Path) -> Iterator[SessionFileReader]:
    """Read the session file `path`. Raises `SessionFileError`, also for what is no regular file."""
    with _explained(path, "read"):
        if path.name.endswith(PARTIAL_SUFFIX):
            raise SessionFileError(f"{path} was never finished; give a file that session.save() wrote")
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise SessionFileError(f"{path} is not a file; give one that session.save() wrote")
            yield SessionFileReader(file, str(path))


@contextmanager
def _explained(path: Path, what: str) -> Iterator[None]:
    if "\0" in str(path):
        raise SessionFileError(f"{str(path)!r} cannot be {what}: no name has a NUL in it")
    try:
        yield
    except OSError as error:
        raise SessionFileError(f"{str(path)!r} cannot be {what}: {error.strerror}") from error


def _open_partial(partial: Path) -> BinaryIO:
    """The file to write to, ours alone. One that a crash has left is taken over. Raises `OSError`."""
    descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        ours, there = os.fstat(descriptor), os.lstat(partial)
        if (ours.st_dev, ours.st_ino) != (there.st_dev, there.st_ino) or ours.st_nlink != 1:
            raise OSError(errno.EBUSY, "another process is saving to it")
        if ours.st_uid != os.geteuid():  # who made it could read what is written
            raise OSError(errno.EPERM, f"{partial} belongs to another user")
        os.fchmod(descriptor, 0o600)
        os.ftruncate(descriptor, 0)
        return os.fdopen(descriptor, "wb")
    except BaseException as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            raise OSError(errno.EBUSY, "another process is saving to it") from error
        raise


def _refuse_other(path: Path) -> None:
    """Raise `SessionFileError` if there is something at `path` that is not a saved session, and `OSError`."""
    with _explained(path, "written"):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode) or file.read(len(MAGIC)) != MAGIC:
                raise SessionFileError(f"{path} exists and is not a saved session; choose another path")


def _digest(data: bytes | memoryview) -> bytes:
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).digest()


def _header_digest(places: tuple[int, int, int], header: bytes) -> bytes:
    digest = hashlib.blake2b(repr((VERSION, places)).encode(), digest_size=_DIGEST_BYTES)
    digest.update(header)
    return digest.digest()
