"""What a picture or video becomes: the size it is resized to, its patches, and the tokens it takes up.

Knows no files and no text. Patches are cut by the kernel library's C function where there is one, by numpy where there
is not: the same bits.

The two size rules are transformers': `qwen2_vl/image_processing_qwen2_vl.py: smart_resize` for images,
`qwen3_vl/video_processing_qwen3_vl.py: smart_resize` for videos. Where those break their own promise, here it is kept:
a side that would shrink below `factor` is set to `factor` while the other one keeps its share, so that thin pictures
come out over `max_pixels` (6000x32 with a cap of 65,536 gives 3488x32, 1.7 times it); growing to `min_pixels` rounds
both sides up, past a `max_pixels` that is close to it. Then the longer side gives way (decision 52).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edge_kernels.library import KernelLibrary
from edge_runtime.errors import BadImage
from edge_runtime.families.qwen3_vl.config import VisionArchitecture

MAX_ASPECT_RATIO = 200

Pixels = NDArray[np.uint8]
"""[height, width, channels]"""


@dataclass(frozen=True, slots=True)
class PixelRange:
    """How many pixels an image (height x width), or a video (frames x height x width), has after resizing."""

    min_pixels: int
    max_pixels: int

    def narrowed(self, min_pixels: int | None, max_pixels: int | None) -> PixelRange:
        """This range with one request's own bounds inside it. Raises `BadImage` if the request's bounds cross."""
        for name, value in (("min_pixels", min_pixels), ("max_pixels", max_pixels)):
            if value is not None and value < 1:
                raise BadImage(f"{name} is {value}; it must be at least 1")
        if min_pixels is not None and max_pixels is not None and min_pixels > max_pixels:
            raise BadImage(f"min_pixels {min_pixels} is greater than max_pixels {max_pixels}; swap them")
        high = self.max_pixels if max_pixels is None else max(self.min_pixels, min(self.max_pixels, max_pixels))
        low = self.min_pixels if min_pixels is None else max(self.min_pixels, min(high, min_pixels))
        return PixelRange(low, high)


def image_target_size(height: int, width: int, factor: int, pixels: PixelRange) -> tuple[int, int]:
    """Height and width an image is resized to: multiples of `factor` within `pixels`, aspect kept as far as possible.

    Raises `BadImage` where one side is more than 200 times the other.
    """
    _check_aspect(height, width)
    target_height, target_width = _nearest(height, factor), _nearest(width, factor)
    if target_height * target_width > pixels.max_pixels:
        target = _shrunk(height, width, factor, math.sqrt(height * width / pixels.max_pixels))
    elif target_height * target_width < pixels.min_pixels:
        target = _grown(height, width, factor, math.sqrt(pixels.min_pixels / (height * width)))
    else:
        target = target_height, target_width
    return _capped(target, factor, pixels.max_pixels)


def video_target_size(
    num_frames: int, height: int, width: int, factor: int, temporal_factor: int, pixels: PixelRange
) -> tuple[int, int]:
    """Height and width every frame of a video is resized to; the pixel range counts all its frames.

    Raises `BadImage` for too few frames, frames under `factor` pixels, or an aspect ratio above 200.
    """
    if num_frames < temporal_factor:
        raise BadImage(
            f"a video needs at least {temporal_factor} frames, this one has {num_frames}; send one frame as an image"
        )
    if height < factor or width < factor:
        raise BadImage(f"video frames must be at least {factor}x{factor}, these are {width}x{height}")
    _check_aspect(height, width)
    target_height, target_width = _nearest(height, factor), _nearest(width, factor)
    frames = round(num_frames / temporal_factor) * temporal_factor
    if frames * target_height * target_width > pixels.max_pixels:
        target = _shrunk(height, width, factor, math.sqrt(num_frames * height * width / pixels.max_pixels))
    elif frames * target_height * target_width < pixels.min_pixels:
        target = _grown(height, width, factor, math.sqrt(pixels.min_pixels / (num_frames * height * width)))
    else:
        target = target_height, target_width
    return _capped(target, factor, pixels.max_pixels // num_frames)


def temporal_patch_times(timestamps_s: tuple[float, ...], depth: int) -> tuple[float, ...]:
    """The time of each temporal patch: the mean of its first and last frame; a last one cut short repeats its end.

    As transformers' `qwen3_vl/processing_qwen3_vl.py: _calculate_timestamps`.
    """
    starts = range(0, len(timestamps_s), depth)
    last = len(timestamps_s) - 1
    return tuple((timestamps_s[start] + timestamps_s[min(start + depth - 1, last)]) / 2 for start in starts)


@dataclass(frozen=True, slots=True, eq=False)
class Normalization:
    """A byte's value for the model, per channel: `byte * scale + offset`, each step rounded to float32.

    That is (byte / 255 - mean) / std to within 2e-7 / std of transformers' processors, which round in another order.
    """

    scale: NDArray[np.float32]
    """[channels]"""
    offset: NDArray[np.float32]
    """[channels]"""

    @classmethod
    def of(cls, mean: tuple[float, ...], std: tuple[float, ...]) -> Normalization:
        """From the mean and standard deviation of a channel, of values from 0 to 1."""
        spread = np.asarray(std, dtype=np.float64)
        scale, offset = 1 / (255 * spread), -np.asarray(mean, dtype=np.float64) / spread
        return cls(scale.astype(np.float32), offset.astype(np.float32))


def patchify(
    frames: tuple[Pixels, ...],
    normalization: Normalization,
    architecture: VisionArchitecture,
    kernels: KernelLibrary | None = None,
) -> NDArray[np.float32]:
    """The normalized patches of one temporal patch, rows in merge order: float32 [grid_h * grid_w, patch_dim].

    `frames` are 1 to `temporal_patch_size` images of one size, sides multiples of patch x merge; the last one is
    repeated to fill the temporal patch. Row order: block row, block column, row in block, column in block; values in a
    row: channel, frame, y, x.
    """
    patch, merge, depth = architecture.patch_size, architecture.spatial_merge_size, architecture.temporal_patch_size
    filled = frames + frames[-1:] * (depth - len(frames))
    if kernels is not None:
        return kernels.patchify(filled, patch, merge, normalization.scale, normalization.offset)
    return _patchify_numpy(filled, normalization, patch, merge)


@dataclass(frozen=True, slots=True)
class TokenGrid:
    """The tokens of one vision run (an image, or one temporal patch of a video): rows x columns, after merging."""

    rows: int
    columns: int

    @property
    def num_tokens(self) -> int:
        """Placeholder tokens in the prompt."""
        return self.rows * self.columns


@dataclass(frozen=True, slots=True)
class Placeholder:
    """What one image or video takes up in a prompt."""

    kind: Literal["image", "video"]
    grids: tuple[TokenGrid, ...]
    timestamps_s: tuple[float, ...]
    """One per grid of a video; empty for an image."""

    @property
    def num_tokens(self) -> int:
        """Placeholder tokens in the prompt."""
        return sum(grid.num_tokens for grid in self.grids)


@dataclass(frozen=True, slots=True)
class VisionSpan:
    """Where the tokens of one vision run lie in the prompt."""

    start: int
    grid: TokenGrid

    @property
    def stop(self) -> int:
        """One past its last token."""
        return self.start + self.grid.num_tokens


def _check_aspect(height: int, width: int) -> None:
    if max(height, width) > MAX_ASPECT_RATIO * min(height, width):
        raise BadImage(
            f"the image is {width}x{height}; one side may be at most {MAX_ASPECT_RATIO} times the other; cut it"
        )


def _nearest(side: int, factor: int) -> int:
    return round(side / factor) * factor


def _shrunk(height: int, width: int, factor: int, scale: float) -> tuple[int, int]:
    return (
        max(factor, math.floor(height / scale / factor) * factor),
        max(factor, math.floor(width / scale / factor) * factor),
    )


def _grown(height: int, width: int, factor: int, scale: float) -> tuple[int, int]:
    return math.ceil(height * scale / factor) * factor, math.ceil(width * scale / factor) * factor


def _capped(target: tuple[int, int], factor: int, max_pixels: int) -> tuple[int, int]:
    """`target` with its longer side cut to what `max_pixels` leaves it, never below `factor`."""
    height, width = target
    if height * width <= max_pixels:
        return target
    longer = max(factor, max_pixels // min(height, width) // factor * factor)
    return (longer, width) if height >= width else (height, longer)


def _patchify_numpy(
    frames: tuple[Pixels, ...], normalization: Normalization, patch: int, merge: int
) -> NDArray[np.float32]:
    height, width, channels = frames[0].shape
    rows, columns = height // (patch * merge), width // (patch * merge)
    table = np.arange(256, dtype=np.float32) * normalization.scale[:, None] + normalization.offset[:, None]
    values = np.empty((rows, columns, merge, merge, channels, len(frames), patch, patch), dtype=np.float32)
    for index, frame in enumerate(frames):
        if index > 0 and frame is frames[index - 1]:  # an image, or the end of an odd video
            values[:, :, :, :, :, index] = values[:, :, :, :, :, index - 1]
            continue
        blocks = frame.reshape(rows, merge, patch, columns, merge, patch, channels).transpose(0, 3, 1, 4, 6, 2, 5)
        for channel in range(channels):
            # Moving bytes and then looking up is several times cheaper than moving floats.
            values[:, :, :, :, channel, index] = table[channel][np.ascontiguousarray(blocks[:, :, :, :, channel])]
    return values.reshape(rows * columns * merge * merge, channels * len(frames) * patch * patch)
