"""Decoding in a process of its own, bounded in time and memory, that can be ended at any moment. Knows no model.

Whatever Pillow does to the bytes of a request happens in `edge_runtime.vision.decode_worker`; only resized pixels come
back. A picture that takes too long, too much, or crashes the decoder ends that process, and another is started.
Headers are read here, by code of ours that is bounded (`edge_runtime.vision.headers`).
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import numpy as np

from edge_runtime.model.cancellation import CancelToken
from edge_runtime.vision.decode_lane import DecodeLane, is_small
from edge_runtime.vision.image import ImageLimits, Pixels, check_array, encoded, image_size, shortages
from edge_runtime.vision.pending import BadFrame, PendingPixels, ResizedPictures, naming_frame

__all__ = ["BadFrame", "PendingPixels", "PictureDecoder", "ResizedPictures"]


class PictureDecoder:
    """Sizes and pixels of the frames of requests. Safe to use from several threads."""

    def __init__(self, limits: ImageLimits) -> None:
        """Starts nothing: `warm` does, or the first frame that needs it."""
        self._limits = limits
        self._files = DecodeLane(limits)
        self._arrays = DecodeLane(limits)  # resizing raw pixels does not wait for somebody's file
        self._finalizer = weakref.finalize(self, _close, self._files, self._arrays)

    def warm(self) -> None:
        """Start the decoding process in the background, so that the first picture does not wait for it."""
        self._files.warm()

    def sizes(self, frames: Sequence[bytes | Pixels], cancel: CancelToken | None = None) -> list[tuple[int, int]]:
        """Height and width of every frame once upright. Microseconds a frame; decodes nothing.

        Raises `BadFrame` for the first one that is no picture or over a limit, and `Cancelled`.
        """
        known: dict[int, tuple[int, int]] = {}
        for index, frame in enumerate(frames):
            if cancel is not None:
                cancel.raise_if_cancelled()
            if id(frame) not in known:
                with naming_frame(index), shortages():
                    known[id(frame)] = image_size(frame, self._limits)
        return [known[id(frame)] for frame in frames]

    def start(self, frames: Sequence[bytes | Pixels], height: int, width: int) -> PendingPixels:
        """Begin to decode and resize `frames` to one size; returns at once. Files wait for files, arrays for arrays.

        Raises `BadFrame` for what is neither bytes nor pixels; whatever else is wrong, `PendingPixels.result` raises.
        """
        checked = []
        for index, frame in enumerate(frames):
            with naming_frame(index):
                checked.append(self._checked(frame))
        here = all(not isinstance(frame, bytes) and is_small(frame) for frame in checked)
        lane = self._arrays if here else self._files
        job = PendingPixels(checked, (height, width), lane.stop)
        if all(not isinstance(frame, bytes) and frame.shape[:2] == (height, width) for frame in checked):
            job.finish(ResizedPictures(tuple(frame for frame in checked if not isinstance(frame, bytes)), 0.0, 0.0))
        else:
            lane.put(job)
        return job

    def close(self) -> None:
        """End the process and the threads; whatever waits is `Cancelled`. Idempotent."""
        self._finalizer()

    def _checked(self, frame: bytes | Pixels) -> bytes | Pixels:
        if isinstance(frame, np.ndarray):
            check_array(frame, self._limits)
            return frame
        return encoded(frame)


def _close(*lanes: DecodeLane) -> None:
    for lane in lanes:
        lane.close()
