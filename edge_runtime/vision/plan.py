"""Which vision runs a request's images and videos need, known from their headers alone. Knows nothing of tokens' text.

An image is one run; a video is one run per temporal patch (two frames), all at one size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from edge_runtime.errors import BadImage
from edge_runtime.families.qwen3_vl.processor import (
    Normalization,
    PixelRange,
    Placeholder,
    TokenGrid,
    image_target_size,
    temporal_patch_times,
    video_target_size,
)
from edge_runtime.model.conversation import ImagePart, Picture, VideoPart
from edge_runtime.model.manifest import Manifest
from edge_runtime.vision.image import ImageLimits, image_size


@dataclass(frozen=True, slots=True, eq=False)
class VisionRun:
    """One run of the vision graph: its frames, still encoded, and how to make pixel values of them."""

    frames: tuple[Picture, ...]
    height: int
    width: int
    normalization: Normalization
    """Of the image or video processor."""
    place: str = ""
    """Which part of the chat it is, in words, for errors."""
    source_size: tuple[int, int] = (0, 0)
    """Height and width of a frame as decoded, upright."""


@dataclass(frozen=True, slots=True)
class MediaPlan:
    """The vision runs of one image or video, and what it takes up in the prompt (one grid per run)."""

    runs: tuple[VisionRun, ...]
    placeholder: Placeholder
    dropped: int = 0
    """That of its part."""


SizeOf = Callable[[Picture], tuple[int, int]]
"""Height and width of a picture in pixels. Raises `BadImage`."""


class MediaPlanner:
    """Plans the images and videos of one bundle."""

    def __init__(self, manifest: Manifest, limits: ImageLimits, max_run_pixels: int | None = None) -> None:
        """`max_run_pixels` caps an image, or a video frame, after resizing; None: only the bundle's limits count."""
        self._vision = manifest.architecture.vision
        self._factor = self._vision.patch_size * self._vision.spatial_merge_size
        image, video = manifest.image_processor, manifest.video_processor
        self._limits = limits
        self._max_run_pixels = image.max_pixels if max_run_pixels is None else max_run_pixels
        max_pixels = min(image.max_pixels, self._max_run_pixels)
        self._image_range = PixelRange(min(image.min_pixels, max_pixels), max_pixels)
        self._video_range = PixelRange(video.min_pixels, video.max_pixels)
        self._image_normalization = Normalization.of(image.mean, image.std)
        self._video_normalization = Normalization.of(video.mean, video.std)

    def plan(self, part: ImagePart | VideoPart, place: str = "", size_of: SizeOf | None = None) -> MediaPlan:
        """The runs `part` needs. Decodes nothing; reads headers, unless `size_of` knows better. Raises `BadImage`."""
        if size_of is None:
            size_of = partial(image_size, limits=self._limits)
        if isinstance(part, ImagePart):
            return self._plan_image(part, place, size_of)
        return self._plan_video(part, place, size_of)

    def _plan_image(self, part: ImagePart, place: str, size_of: SizeOf) -> MediaPlan:
        allowed = self._image_range.narrowed(part.min_pixels, part.max_pixels)
        source = size_of(part.data)
        size = image_target_size(*source, self._factor, allowed)
        run = VisionRun((part.data,), *size, self._image_normalization, place, source)
        return MediaPlan((run,), Placeholder("image", (self._token_grid(size),), ()), part.dropped)

    def _plan_video(self, part: VideoPart, place: str, size_of: SizeOf) -> MediaPlan:
        frames, depth = part.frames, self._vision.temporal_patch_size
        source = self._frame_size(part, size_of)
        size = self._video_size(len(frames), source)
        starts = range(0, len(frames), depth)
        runs = tuple(
            VisionRun(frames[start : start + depth], *size, self._video_normalization, place, source)
            for start in starts
        )
        times = temporal_patch_times(part.timestamps_s, depth)
        return MediaPlan(runs, Placeholder("video", (self._token_grid(size),) * len(runs), times), part.dropped)

    def _frame_size(self, part: VideoPart, size_of: SizeOf) -> tuple[int, int]:
        """The height and width that all frames have."""
        num_frames = len(part.frames)
        if num_frames != len(part.timestamps_s):
            raise BadImage(
                f"a video has {num_frames} frames but {len(part.timestamps_s)} timestamps; give one per frame"
            )
        if not all(math.isfinite(time) and time >= 0 for time in part.timestamps_s):
            raise BadImage("the timestamps of a video must be seconds from its start, zero or more")
        sizes = {size_of(frame) for frame in part.frames}
        if len(sizes) > 1:
            listed = ", ".join(f"{width}x{height}" for height, width in sorted(sizes))
            raise BadImage(f"the frames of a video must have one size, got {listed}")
        return sizes.pop() if sizes else (0, 0)

    def _video_size(self, num_frames: int, source: tuple[int, int]) -> tuple[int, int]:
        """The height and width that they are resized to."""
        max_pixels = min(self._video_range.max_pixels, num_frames * self._max_run_pixels)
        allowed = PixelRange(min(self._video_range.min_pixels, max_pixels), max_pixels)
        depth = self._vision.temporal_patch_size
        return video_target_size(num_frames, *source, self._factor, depth, allowed)

    def _token_grid(self, size: tuple[int, int]) -> TokenGrid:
        return TokenGrid(rows=size[0] // self._factor, columns=size[1] // self._factor)
