"""Pictures by what they are: digests of bytes and of pixels, and the features of those seen lately. Knows no graph.

Nothing is keyed by a path, by an object's identity or by a sample: equal digests mean equal bytes, in an equal shape.
With another `salt` (16 bytes, or none) everything has other digests, and nothing is found.
"""

from __future__ import annotations

import hashlib
import threading
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from mmap import mmap
from typing import TypeVar
from weakref import WeakKeyDictionary

import numpy as np

from edge_runtime.families.qwen3_vl.processor import Normalization
from edge_runtime.model.conversation import ImagePart, Picture, PictureDigest, VideoPart, frames_of
from edge_runtime.vision.encoder import VisionFeatures
from edge_runtime.vision.image import Pixels
from edge_runtime.vision.plan import VisionRun

_DIGEST_BYTES = 16
_MAX_KNOWN = 4096
"""Pictures whose pixels' digests are remembered, and whose sizes: some 100 bytes each, and the dictionary's."""


def pixel_digest(frames: tuple[Pixels, ...], normalization: Normalization, salt: bytes = b"") -> bytes:
    """Of all that the features of resized frames depend on, but for the model."""
    digest = hashlib.blake2b(repr([frame.shape for frame in frames]).encode(), digest_size=_DIGEST_BYTES, salt=salt)
    digest.update(normalization.scale.tobytes() + normalization.offset.tobytes())
    for frame in frames:
        digest.update(np.ascontiguousarray(frame).data)
    return digest.digest()


def frame_digests(frames: Iterable[Picture]) -> dict[int, bytes]:
    """By the `id` of each frame the digest of what it is; however often it comes, it is read once."""
    found: dict[int, bytes] = {}
    for frame in frames:
        if id(frame) not in found:
            found[id(frame)] = (frame if isinstance(frame, PictureDigest) else PictureDigest.of(frame)).digest
    return found


class PartDigests:
    """The digests of frames, made once for each part that is kept, as those of a session are. For any thread.

    A part cannot change, nor can its frames where that is looked at; it is forgotten with the part.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: WeakKeyDictionary[ImagePart | VideoPart, dict[int, bytes]] = WeakKeyDictionary()

    def of(self, parts: Iterable[ImagePart | VideoPart]) -> dict[int, bytes]:
        """The `frame_digests` of their frames."""
        found: dict[int, bytes] = {}
        for part in parts:
            with self._lock:
                digests = self._known.get(part)
            if digests is None:
                frames = frames_of(part)
                digests = {id(frame): found[id(frame)] for frame in frames if id(frame) in found}
                digests |= frame_digests(frame for frame in frames if id(frame) not in found)
                if all(map(is_fixed, frames)):
                    with self._lock:
                        self._known[part] = digests  # the part holds its frames, so their ids stay theirs
            found |= digests
        return found


def is_fixed(frame: object) -> bool:
    """Whether nobody can change it: bytes, or pixels in memory that cannot be written."""
    while isinstance(frame, np.ndarray):
        if frame.flags.writeable:
            return False
        frame = frame.base
    if isinstance(frame, memoryview):
        return frame.readonly and not isinstance(frame.obj, (bytearray, array, mmap, np.ndarray))
    return isinstance(frame, (bytes, PictureDigest))


def source_digest(run: VisionRun, frames: Mapping[int, bytes], salt: bytes = b"") -> bytes:
    """Of all that its resized frames depend on: the `frame_digests` of those that came, and their size in the model."""
    digest = hashlib.blake2b(repr((run.height, run.width)).encode(), digest_size=_DIGEST_BYTES, salt=salt)
    digest.update(run.normalization.scale.tobytes() + run.normalization.offset.tobytes())
    for frame in run.frames:
        digest.update(frames[id(frame)])
    return digest.digest()


class KnownPictures:
    """What is known of pictures by their digests, so that none need be decoded, or sent, twice. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._digests: OrderedDict[bytes, bytes] = OrderedDict()
        self._sizes: OrderedDict[bytes, tuple[int, int]] = OrderedDict()

    def digest(self, source: bytes) -> bytes | None:
        """The digest of the pixels that come of `source`, if it is known."""
        with self._lock:
            return _used(self._digests, source)

    def note(self, source: bytes, digest: bytes) -> None:
        """Remember it."""
        with self._lock:
            _keep(self._digests, source, digest)

    def size(self, frame: bytes, salt: bytes) -> tuple[int, int] | None:
        """Height and width, upright, of a frame by its digest, if it came before with that salt."""
        with self._lock:
            return _used(self._sizes, salt + frame)

    def note_size(self, frame: bytes, salt: bytes, size: tuple[int, int]) -> None:
        """Remember it."""
        with self._lock:
            _keep(self._sizes, salt + frame, size)


_V = TypeVar("_V")


def _used(known: OrderedDict[bytes, _V], key: bytes) -> _V | None:
    if key in known:
        known.move_to_end(key)
    return known.get(key)


def _keep(known: OrderedDict[bytes, _V], key: bytes, value: _V) -> None:
    known[key] = value
    known.move_to_end(key)
    while len(known) > _MAX_KNOWN:
        known.popitem(last=False)


class FeatureCache:
    """Features by the digest of their pixels, the most recently used that fit so many bytes. Used by one thread."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._features: OrderedDict[bytes, VisionFeatures] = OrderedDict()

    def __contains__(self, digest: bytes | None) -> bool:
        """Whether there are features of such pixels; None is of none."""
        return digest in self._features

    def get(self, digest: bytes) -> VisionFeatures | None:
        """The features of such pixels. Read-only."""
        if digest in self._features:
            self._features.move_to_end(digest)
        return self._features.get(digest)

    def put(self, digest: bytes, features: VisionFeatures) -> None:
        """Keep them, if they fit, and drop what was not used for longest."""
        if digest in self._features or features.num_bytes > self.max_bytes:
            return
        self._features[digest] = features
        self.num_bytes += features.num_bytes
        while self.num_bytes > self.max_bytes:
            self.num_bytes -= self._features.popitem(last=False)[1].num_bytes
