"""A video file to its sampled, resized frames. The only file that uses OpenCV's decoder; knows nothing of the model.

Frames are chosen as transformers' `Qwen3VLVideoProcessor.sample_frames` does, and resized as they are read, so that
memory stays at one source frame plus the video's pixel budget (`VideoProcessor.max_pixels` x 3 bytes). transformers
resizes with torch's antialiased bicubic, here it is Pillow's: at most 1/255 apart per value, and 2/255 in fewer than
one value of a thousand where noise is enlarged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from edge_runtime.errors import BadImage
from edge_runtime.model.conversation import VideoPart
from edge_runtime.vision.image import ImageLimits, Pixels
from edge_runtime.vision.resize import PixelRange, resize_image, video_target_size


class PatchSizes(Protocol):
    """What of a `VisionArchitecture` decides the size of a frame; a server tells its clients."""

    @property
    def patch_size(self) -> int: ...  # noqa: D102

    @property
    def spatial_merge_size(self) -> int: ...  # noqa: D102

    @property
    def temporal_patch_size(self) -> int: ...  # noqa: D102


class VideoLimits(Protocol):
    """What of a `VideoProcessor` decides which frames are taken, and how large."""

    @property
    def fps(self) -> float: ...  # noqa: D102

    @property
    def min_frames(self) -> int: ...  # noqa: D102

    @property
    def max_frames(self) -> int: ...  # noqa: D102

    @property
    def min_pixels(self) -> int: ...  # noqa: D102

    @property
    def max_pixels(self) -> int: ...  # noqa: D102


def read_video(
    path: Path, architecture: PatchSizes, processor: VideoLimits, limits: ImageLimits | None = None
) -> VideoPart:
    """Sample the frames of a video file at `processor.fps`, resized to the size the model will see.

    Raises `BadImage` for a file that is missing, is not a video, has fewer than two readable frames, or whose frames
    are over `limits`.
    """
    if not path.is_file():
        raise BadImage(f"{path} is not a file")
    capture = cv2.VideoCapture(str(path))
    try:
        if not capture.isOpened():
            raise BadImage(f"{path} is not a video that OpenCV can open; convert it to MP4 (H.264) or AVI (MJPEG)")
        return _sample(capture, path, (architecture, processor, limits or ImageLimits()))
    finally:
        capture.release()


def sample_frame_indices(num_frames: int, source_fps: float, processor: VideoLimits) -> list[int]:
    """Indices of the frames to keep, evenly spread over all `num_frames` of a video of `source_fps` frames/s."""
    wanted = int(num_frames / source_fps * processor.fps)
    wanted = min(max(wanted, processor.min_frames), processor.max_frames, num_frames)
    return [int(index) for index in np.linspace(0, num_frames - 1, wanted).round()]


def _sample(capture: cv2.VideoCapture, path: Path, settings: tuple[PatchSizes, VideoLimits, ImageLimits]) -> VideoPart:
    architecture, processor, limits = settings
    num_frames, source_fps = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), float(capture.get(cv2.CAP_PROP_FPS))
    height, width = int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)), int(capture.get(cv2.CAP_PROP_FRAME_WIDTH))
    if num_frames < 1 or not source_fps > 0:
        raise BadImage(f"{path} does not say how many frames it has, or how fast; convert it to MP4 or AVI")
    if height * width > limits.max_source_pixels:
        raise BadImage(f"{path} has frames of {width}x{height}; at most {limits.max_source_pixels} pixels are accepted")
    indices = sample_frame_indices(num_frames, source_fps, processor)
    frames: list[Pixels] = []
    for frame in _frames_at(capture, indices):
        # Sized by the frame itself: OpenCV may turn frames by the file's orientation, unlike the sides it reports.
        sides = (frame.shape[0], frame.shape[1])
        frames.append(resize_image(frame, *_target_size(len(indices), sides, architecture, processor)))
    if len(frames) < len(indices):
        raise BadImage(
            f"{path} says it has {num_frames} frames, but only {len(frames)} of the {len(indices)} sampled ones can be "
            "read; the file is damaged or cut short"
        )
    return VideoPart(tuple(frames), tuple(index / source_fps for index in indices))


def _target_size(
    num_frames: int, sides: tuple[int, int], architecture: PatchSizes, processor: VideoLimits
) -> tuple[int, int]:
    factor = architecture.patch_size * architecture.spatial_merge_size
    allowed = PixelRange(processor.min_pixels, processor.max_pixels)
    return video_target_size(num_frames, *sides, factor, architecture.temporal_patch_size, allowed)


def _frames_at(capture: cv2.VideoCapture, indices: Sequence[int]) -> Iterator[Pixels]:
    """The frames at `indices` (ascending) as RGB; fewer where the file ends early.

    Frames in between are grabbed without conversion; seeking would be inexact in many containers.
    """
    position = 0
    for index in indices:
        while position < index and capture.grab():
            position += 1
        read, bgr = capture.read()
        if not read:
            return
        position += 1
        yield np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), dtype=np.uint8)
