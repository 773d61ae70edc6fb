"""The copies of pictures that a client sends, kept for as long as a growing history brings them again. Knows no wire.

A picture that comes again need not be hashed, nor, if it is pixels, be copied once more. Where it lies in memory is a
mere hint as to which copy to compare it with; it is compared to the last byte.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_runtime.model.conversation import PictureDigest

_MIN_BYTES = 256
"""Smaller pictures have no digest: they travel as they are, for less than asking for them would cost."""
_MAX_BYTES = 128 * 2**20


@dataclass(frozen=True, slots=True, eq=False)
class PictureCopy:
    """What is sent of a picture."""

    data: bytes
    """The file as it is, or the pixels."""
    digest: bytes | None
    """As `PictureDigest` has it."""
    shape: tuple[int, ...] | None
    """[H, W, 3] of pixels."""
    request: int
    """The last that had it."""


class PictureCopies:
    """The copies of one client. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._copies: OrderedDict[int, PictureCopy] = OrderedDict()  # by the id of the picture; used last comes last
        self._num_bytes = 0
        self._request = 0

    def begin(self) -> None:
        """A request is being made; what neither it nor the one before it has gives way to others."""
        with self._lock:
            self._request += 1

    def of(self, picture: bytes | NDArray[np.uint8]) -> PictureCopy:
        """A copy of `picture`, pixels or a file, as it is now; of a file that is the file itself."""
        with self._lock:
            kept = self._copies.get(id(picture))
        if kept is None or not _is_copy(kept, picture):
            kept = _copy(picture, self._request)
        if kept.digest is not None:
            self._keep(id(picture), kept)
        return kept

    def _keep(self, key: int, copy: PictureCopy) -> None:
        with self._lock:
            self._drop(key)
            while self._copies and self._num_bytes + len(copy.data) > _MAX_BYTES:
                oldest = next(iter(self._copies))
                if self._copies[oldest].request >= self._request - 1:
                    return  # a history that is longer than this: its first pictures stay
                self._drop(oldest)
            if len(copy.data) <= _MAX_BYTES:
                self._copies[key] = PictureCopy(copy.data, copy.digest, copy.shape, self._request)
                self._num_bytes += len(copy.data)

    def _drop(self, key: int) -> None:
        dropped = self._copies.pop(key, None)
        self._num_bytes -= 0 if dropped is None else len(dropped.data)


def _copy(picture: bytes | NDArray[np.uint8], request: int) -> PictureCopy:
    if isinstance(picture, bytes):
        digest = PictureDigest.of(picture).digest if len(picture) >= _MIN_BYTES else None
        return PictureCopy(picture, digest, None, request)
    data = picture.tobytes()
    # Of the copy: the picture itself may be changing.
    pixels = np.frombuffer(data, np.uint8).reshape(picture.shape)
    digest = PictureDigest.of(pixels).digest if len(data) >= _MIN_BYTES else None
    return PictureCopy(data, digest, picture.shape, request)


def _is_copy(copy: PictureCopy, picture: bytes | NDArray[np.uint8]) -> bool:
    if isinstance(picture, bytes):
        return copy.data is picture
    if copy.shape != picture.shape:
        return False
    words = np.uint64 if len(copy.data) % 8 == 0 else np.uint8  # an eighth of the comparisons
    flat = np.ascontiguousarray(picture).reshape(-1)
    return np.array_equal(np.frombuffer(copy.data, words), flat.view(words))
