"""From pixels to normalized patches, as Qwen2VLImageProcessor and Qwen3VLVideoProcessor define it. Knows no model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edge_export.families.qwen3_vl.reference.ops import Array
from edge_export.families.qwen3_vl.reference.positions import Grid

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class PatchLayout:
    """How frames are cut into patches, and how large they may be (pixels; for a video, of all its frames)."""

    min_pixels: int
    max_pixels: int
    patch_size: int = 16
    temporal_patch_size: int = 2
    merge_size: int = 2
    mean: float = 0.5
    std: float = 0.5

    @property
    def factor(self) -> int:
        """Sides of a resized frame are multiples of this."""
        return self.patch_size * self.merge_size


@dataclass(frozen=True, slots=True)
class Patches:
    """One vision run: `pixel_values` [N, C * temporal * patch * patch] in merge order, and the grid they came from."""

    pixel_values: Array
    grid: Grid


def image_patches(image: Pixels, layout: PatchLayout) -> Patches:
    """One RGB image [H, W, 3]; a still image fills its temporal patch with copies of itself."""
    height, width = resized_size(image.shape[0], image.shape[1], layout)
    frame = _resize(image, height, width)
    return _patchify([frame] * layout.temporal_patch_size, layout)


def video_patches(frames: Sequence[Pixels], layout: PatchLayout) -> list[Patches]:
    """Frames of one size, oldest first, one result per temporal patch; a missing last frame repeats the one before."""
    height, width = resized_size(frames[0].shape[0], frames[0].shape[1], layout, len(frames))
    resized = [_resize(frame, height, width) for frame in frames]
    resized += [resized[-1]] * (-len(resized) % layout.temporal_patch_size)
    step = layout.temporal_patch_size
    return [_patchify(resized[i : i + step], layout) for i in range(0, len(resized), step)]


def resized_size(height: int, width: int, layout: PatchLayout, num_frames: int | None = None) -> tuple[int, int]:
    """The size (height, width) to resize to: multiples of the factor within the pixel limits, near the same shape.

    `num_frames` is None for an image; for a video the limits count all frames, rounded to whole temporal patches.
    """
    factor, frames = layout.factor, num_frames or 1
    whole = 1 if num_frames is None else round(num_frames / layout.temporal_patch_size) * layout.temporal_patch_size
    h, w = round(height / factor) * factor, round(width / factor) * factor
    if whole * h * w > layout.max_pixels:
        beta = math.sqrt(frames * height * width / layout.max_pixels)
        h = max(factor, math.floor(height / beta / factor) * factor)
        w = max(factor, math.floor(width / beta / factor) * factor)
    elif whole * h * w < layout.min_pixels:
        beta = math.sqrt(layout.min_pixels / (frames * height * width))
        h, w = math.ceil(height * beta / factor) * factor, math.ceil(width * beta / factor) * factor
    return h, w


def _resize(image: Pixels, height: int, width: int) -> Pixels:
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def _patchify(frames: Sequence[Pixels], layout: PatchLayout) -> Patches:
    """[frames, H, W, C] to rows of (channel, frame, y, x) in merge order."""
    pixels = (np.stack(frames).astype(np.float32) / 255 - np.float32(layout.mean)) / np.float32(layout.std)
    t, height, width, c = pixels.shape
    p, m = layout.patch_size, layout.merge_size
    h, w = height // p, width // p
    cut = pixels.reshape(t, h // m, m, p, w // m, m, p, c)  # frame, block row, row, y, block column, column, x, channel
    rows = cut.transpose(1, 4, 2, 5, 7, 0, 3, 6).reshape(h * w, c * t * p * p)
    return Patches(np.ascontiguousarray(rows, np.float32), Grid(h, w))
