"""What the vision graph takes and gives, and where each patch sits. Knows nothing of pixels.

The maths is transformers' `qwen3_vl/modeling_qwen3_vl.py: rot_pos_emb, fast_pos_embed_interpolate`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import numpy as np
from numpy.typing import NDArray

from edge_runtime.families.contract import FLOAT, INT64, Contract
from edge_runtime.families.qwen3_vl.config import VisionArchitecture, vision_segments

_ROPE_THETA = 10000.0


@dataclass(frozen=True, slots=True, eq=False)
class PatchPositions:
    """Position inputs of the vision graph for one grid of N patches, rows in merge order. Read-only arrays."""

    pos_index: NDArray[np.int64]
    """[4, N] rows of the position table: the four corners of the bilinear interpolation."""
    pos_weight: NDArray[np.float32]
    """[4, N] weights of the corners."""
    rope_cos: NDArray[np.float32]
    """[N, head_dim / 2], first half by row, second half by column."""
    rope_sin: NDArray[np.float32]
    """[N, head_dim / 2]."""


def vision_contract(vision: VisionArchitecture) -> Contract:
    """`vision.onnx`."""
    half, hidden = vision.head_dim // 2, vision.hidden_size
    outputs = {name: width for segment in vision_segments(vision) for name, width in segment.items()}
    return Contract(
        inputs={
            "segment": (INT64, ()),
            "pixel_values": (FLOAT, (None, vision.patch_dim)),
            "pos_index": (INT64, (4, None)),
            "pos_weight": (FLOAT, (4, None)),
            "rope_cos": (FLOAT, (None, half)),
            "rope_sin": (FLOAT, (None, half)),
            "stream": (FLOAT, (None, hidden)),
            "qkv": (FLOAT, (None, 3 * hidden)),
            "query_rows": (INT64, (2,)),
        },
        outputs={name: (FLOAT, (None, width)) for name, width in outputs.items()},
    )


@lru_cache(maxsize=8)
def patch_positions(architecture: VisionArchitecture, grid_h: int, grid_w: int) -> PatchPositions:
    """Positions of a `grid_h` x `grid_w` grid of patches; the last few grids are remembered."""
    merge = architecture.spatial_merge_size
    order = _merge_order(grid_h, grid_w, merge)
    rows, columns = np.divmod(order, grid_w)
    index, weight = _bilinear(grid_h, grid_w, math.isqrt(architecture.num_position_embeddings))
    angles = _rope_angles(rows, columns, architecture.head_dim)
    positions = PatchPositions(
        pos_index=np.ascontiguousarray(index[:, order]),
        pos_weight=np.ascontiguousarray(weight[:, order]),
        rope_cos=np.cos(angles),
        rope_sin=np.sin(angles),
    )
    for array in (positions.pos_index, positions.pos_weight, positions.rope_cos, positions.rope_sin):
        array.setflags(write=False)
    return positions


def _merge_order(grid_h: int, grid_w: int, merge: int) -> NDArray[np.int64]:
    """[N] row-major patch numbers in merge order."""
    numbers = np.arange(grid_h * grid_w, dtype=np.int64)
    blocks = numbers.reshape(grid_h // merge, merge, grid_w // merge, merge).transpose(0, 2, 1, 3)
    return cast("NDArray[np.int64]", blocks.reshape(-1))


def _rope_angles(rows: NDArray[np.int64], columns: NDArray[np.int64], head_dim: int) -> NDArray[np.float32]:
    """[N, head_dim / 2] rotation angles; each axis owns head_dim / 4 frequencies."""
    dim = head_dim // 2
    exponent = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    inv_freq = (1 / np.power(_ROPE_THETA, exponent.astype(np.float64)).astype(np.float32)).astype(np.float32)
    axes = np.stack((rows, columns), axis=1).astype(np.float32)  # [N, 2]
    return np.asarray((axes[:, :, None] * inv_freq).reshape(len(rows), dim), dtype=np.float32)


def _bilinear(grid_h: int, grid_w: int, side: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Corner rows [4, N] and weights [4, N] in row-major order, for a position table of `side` x `side`."""
    row_low, row_high, row_part = _axis(grid_h, side)
    column_low, column_high, column_part = _axis(grid_w, side)
    row_parts = ((row_low, 1 - row_part), (row_high, row_part))
    column_parts = ((column_low, 1 - column_part), (column_high, column_part))
    corners = [(row, column) for row in row_parts for column in column_parts]
    index = [(row[:, None] * side + column[None, :]).reshape(-1) for (row, _), (column, _) in corners]
    weight = [(row[:, None] * column[None, :]).reshape(-1) for (_, row), (_, column) in corners]
    return np.stack(index), np.stack(weight)


def _axis(length: int, side: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Table cells below and above each of `length` evenly spaced points, and how far past the lower one each is."""
    points = _linspace(side - 1, length)
    low = points.astype(np.int64)
    high = np.minimum(low + 1, side - 1)
    return low, high, points - low.astype(np.float32)


def _linspace(end: int, num: int) -> NDArray[np.float32]:
    """`num` float32 points from 0 to `end`, to the very bit of torch.linspace.

    torch steps from the nearer end with a float32 step and one rounding per point (a fused multiply-add).
    """
    step = float(np.float32(end) / np.float32(max(num - 1, 1)))
    index = np.arange(num, dtype=np.float64)
    return np.where(index < max(num // 2, 1), step * index, end - step * (num - 1 - index)).astype(np.float32)
