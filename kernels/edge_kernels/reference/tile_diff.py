"""`tile_diff`: where two frames differ, and how much."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def tile_diff(a: NDArray[np.uint8], b: NDArray[np.uint8], tile: int) -> tuple[NDArray[np.uint32], NDArray[np.uint8]]:
    """Sum and largest of |a - b| over the pixels and channels of every tile. The kernel's twin, same arguments."""
    difference = np.abs(a.astype(np.int16) - b)
    height, width, channels = a.shape
    padded = np.pad(difference, ((0, -height % tile), (0, -width % tile), (0, 0)))
    tiles = padded.reshape(-(-height // tile), tile, -(-width // tile), tile, channels)
    return tiles.sum(axis=(1, 3, 4), dtype=np.uint32), tiles.max(axis=(1, 3, 4), initial=0).astype(np.uint8)
