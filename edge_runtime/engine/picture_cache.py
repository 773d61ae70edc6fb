"""Pictures by what they are: digests of bytes and of pixels, and the features of those seen lately. Knows no graph.

Nothing is keyed by a path, by an object's identity or by a sample: equal digests mean equal bytes, in an equal shape.
With another `salt` (16 bytes, or none) everything has other digests, and nothing is found.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from edge_runtime.families.qwen3_vl.processor import Normalization
from edge_runtime.vision.encoder import VisionFeatures
from edge_runtime.vision.image import Pixels
from edge_runtime.vision.plan import VisionRun

_DIGEST_BYTES = 16
_MAX_KNOWN = 4096
"""Pictures whose pixels' digests are remembered: 32 bytes each, and the dictionary's."""


def pixel_digest(frames: tuple[Pixels, ...], normalization: Normalization, salt: bytes = b"") -> bytes:
    """Of all that the features of resized frames depend on, but for the model."""
    digest = hashlib.blake2b(repr([frame.shape for frame in frames]).encode(), digest_size=_DIGEST_BYTES, salt=salt)
    digest.update(normalization.scale.tobytes() + normalization.offset.tobytes())
    for frame in frames:
        digest.update(np.ascontiguousarray(frame).data)
    return digest.digest()


def source_digests(runs: Sequence[VisionRun], salt: bytes = b"") -> list[bytes]:
    """Per run, of all that its resized frames depend on: the frames as they came, and their size in the model.

    However many runs have a frame, it is read once.
    """
    of_frame: dict[int, bytes] = {}
    digests = []
    for run in runs:
        digest = hashlib.blake2b(repr((run.height, run.width)).encode(), digest_size=_DIGEST_BYTES, salt=salt)
        digest.update(run.normalization.scale.tobytes() + run.normalization.offset.tobytes())
        for frame in run.frames:
            if id(frame) not in of_frame:
                of_frame[id(frame)] = _frame_digest(frame)
            digest.update(of_frame[id(frame)])
        digests.append(digest.digest())
    return digests


def _frame_digest(frame: bytes | Pixels) -> bytes:
    kind = f"pixels {frame.shape}" if isinstance(frame, np.ndarray) else "file"
    digest = hashlib.blake2b(kind.encode(), digest_size=_DIGEST_BYTES)
    digest.update(np.ascontiguousarray(frame).data if isinstance(frame, np.ndarray) else frame)
    return digest.digest()


class KnownPictures:
    """What the pixels of pictures were, by the pictures as they came, so that none is decoded twice. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._digests: OrderedDict[bytes, bytes] = OrderedDict()

    def digest(self, source: bytes) -> bytes | None:
        """The digest of the pixels that come of `source`, if it is known."""
        with self._lock:
            if source in self._digests:
                self._digests.move_to_end(source)
            return self._digests.get(source)

    def note(self, source: bytes, digest: bytes) -> None:
        """Remember it."""
        with self._lock:
            self._digests[source] = digest
            self._digests.move_to_end(source)
            while len(self._digests) > _MAX_KNOWN:
                self._digests.popitem(last=False)


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
