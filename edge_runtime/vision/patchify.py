"""Resized frames to the rows the vision graph takes. Knows nothing of files, sizes or positions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_runtime.model.manifest import VisionArchitecture
from edge_runtime.vision.image import Pixels


def normalization_table(mean: tuple[float, ...], std: tuple[float, ...]) -> NDArray[np.float32]:
    """The normalized value of every byte, per channel: float32 [channels, 256].

    Rounded step by step as transformers' slow processor does (rescale in float64, normalize in float32), so that a
    table lookup gives its very bits.
    """
    scaled = (np.arange(256, dtype=np.float64) * (1 / 255)).astype(np.float32)
    mean_column = np.asarray(mean, dtype=np.float32)[:, None]
    std_column = np.asarray(std, dtype=np.float32)[:, None]
    return (scaled[None, :] - mean_column) / std_column


def patchify(
    frames: tuple[Pixels, ...], table: NDArray[np.float32], architecture: VisionArchitecture
) -> NDArray[np.float32]:
    """The normalized patches of one temporal patch, rows in merge order: float32 [grid_h * grid_w, patch_dim].

    `frames` are 1 to `temporal_patch_size` images of one size, sides multiples of patch x merge; the last one is
    repeated to fill the temporal patch. Row order: block row, block column, row in block, column in block; values in a
    row: channel, frame, y, x.
    """
    patch, merge, depth = architecture.patch_size, architecture.spatial_merge_size, architecture.temporal_patch_size
    height, width, channels = frames[0].shape
    rows, columns = height // (patch * merge), width // (patch * merge)
    shape = (rows, columns, merge, merge, channels, depth, patch, patch)
    values = np.empty(shape, dtype=np.float32)
    for index, frame in enumerate(frames):
        blocks = frame.reshape(rows, merge, patch, columns, merge, patch, channels).transpose(0, 3, 1, 4, 6, 2, 5)
        for channel in range(channels):
            # Moving bytes and then looking up is several times cheaper than moving floats.
            values[:, :, :, :, channel, index] = table[channel][np.ascontiguousarray(blocks[:, :, :, :, channel])]
    for index in range(len(frames), depth):
        values[:, :, :, :, :, index] = values[:, :, :, :, :, len(frames) - 1]
    return values.reshape(rows * columns * merge * merge, channels * depth * patch * patch)
