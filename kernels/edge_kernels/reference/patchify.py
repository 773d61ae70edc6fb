"""`patchify`: resized frames to the rows of `pixel_values`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def patchify(
    frames: Sequence[NDArray[np.uint8]],
    patch: int,
    merge: int,
    scale: NDArray[np.float32],
    offset: NDArray[np.float32],
) -> NDArray[np.float32]:
    """pixel * scale + offset per channel, cut into patches in merge order. The kernel's twin, same arguments.

    A row's values go channel, frame, y, x; rows go block row, block column, row in block, column in block.
    """
    video = np.stack(frames)  # [F, H, W, 3]
    num_frames, height, width, _ = video.shape
    values = video.astype(np.float32) * scale + offset
    grid = values.reshape(num_frames, height // patch // merge, merge, patch, width // patch // merge, merge, patch, 3)
    # F, block row, row, y, block column, column, x, C -> block row, block column, row, column, C, F, y, x
    rows = grid.transpose(1, 4, 2, 5, 7, 0, 3, 6)
    return np.ascontiguousarray(rows).reshape(height // patch * (width // patch), -1)
