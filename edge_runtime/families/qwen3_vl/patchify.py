"""Resized frames to the rows the vision graph takes. Knows nothing of files, sizes or positions.

The kernel library's C function does it where there is one, numpy where there is not: the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_kernels.library import KernelLibrary
from edge_runtime.families.qwen3_vl.config import VisionArchitecture

Pixels = NDArray[np.uint8]
"""[height, width, channels]"""


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
