"""Where tokens and patches stand: M-RoPE positions, rotary angles, interpolated position embeddings. Knows no weights.

Merge order, here and everywhere: patches go block row, block column, row in block, column in block, so that the
merge_size x merge_size patches that become one token are adjacent.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_export.families.qwen3_vl.reference.ops import Array

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Grid:
    """Patches of one temporal patch: an image, or a pair of video frames."""

    height: int
    width: int


def patch_rows_and_columns(grid: Grid, merge_size: int) -> tuple[Ints, Ints]:
    """Row and column of every patch, each [N], in merge order."""
    rows, columns = np.indices((grid.height, grid.width))
    return _merge_order(rows, merge_size), _merge_order(columns, merge_size)


def _merge_order(values: Ints, merge_size: int) -> Ints:
    h, w = values.shape
    blocks = values.reshape(h // merge_size, merge_size, w // merge_size, merge_size)
    merged: Ints = blocks.transpose(0, 2, 1, 3).reshape(-1)  # [N]
    return merged


def vision_rotary(grid: Grid, merge_size: int, head_dim: int) -> tuple[Array, Array]:
    """2-D rotary tables cos, sin [N, head_dim/2]: one half of the angles follows the row, the other the column."""
    inverse = 1.0 / 10000.0 ** (np.arange(0, head_dim // 2, 2) / (head_dim // 2))  # [head_dim/4]
    rows, columns = patch_rows_and_columns(grid, merge_size)
    angles = np.concatenate([np.outer(rows, inverse), np.outer(columns, inverse)], axis=-1)  # [N, head_dim/2]
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def position_interpolation(grid: Grid, merge_size: int, num_embeddings: int) -> tuple[Ints, Array]:
    """Bilinear sampling of the square position table: rows of the table [4, N] and their weights [4, N].

    The grid's corners lie on the table's corners. Corner order: top left, top right, bottom left, bottom right.
    """
    side = round(num_embeddings**0.5)
    y, x = np.linspace(0, side - 1, grid.height), np.linspace(0, side - 1, grid.width)
    top, left = y.astype(np.int64), x.astype(np.int64)
    bottom, right = np.minimum(top + 1, side - 1), np.minimum(left + 1, side - 1)
    dy, dx = y - top, x - left
    index = [np.add.outer(row * side, column) for row in (top, bottom) for column in (left, right)]
    weight = [np.outer(wy, wx) for wy in (1 - dy, dy) for wx in (1 - dx, dx)]
    return (
        np.stack([_merge_order(plane, merge_size) for plane in index]),
        np.stack([_merge_order(plane, merge_size) for plane in weight]).astype(np.float32),
    )


def mrope_positions(is_media: NDArray[np.bool_], grids: tuple[Grid, ...], merge_size: int) -> tuple[Ints, int]:
    """M-RoPE positions [3, T] (time, height, width) of a prompt, and the rope delta of what follows it.

    `is_media` [T] marks the placeholders; `grids` are the media in prompt order, each filling as many placeholders as
    it has merged patches. Text advances all three axes together. Media tokens share one time and spread over height
    and width; the text after starts at one more than the largest position so far. Token t >= T stands at t + delta.
    """
    positions = np.zeros((3, len(is_media)), np.int64)
    token, next_position, media = 0, 0, iter(grids)
    while token < len(is_media):
        if not is_media[token]:
            positions[:, token] = next_position
            token, next_position = token + 1, next_position + 1
            continue
        grid = next(media)
        h, w = grid.height // merge_size, grid.width // merge_size
        rows, columns = np.indices((h, w)).reshape(2, -1)
        span = slice(token, token + h * w)
        positions[:, span] = next_position + np.stack([np.zeros_like(rows), rows, columns])  # [3, h*w]
        token, next_position = token + h * w, next_position + max(h, w)
    return positions, next_position - len(is_media)


def text_rotary(
    positions: Ints, head_dim: int, theta: float, mrope_section: tuple[int, int, int]
) -> tuple[Array, Array]:
    """Interleaved M-RoPE tables cos, sin [T, head_dim/2] of positions [3, T].

    Frequency i follows time, except that i = 1, 4, 7, ... follow height and i = 2, 5, 8, ... width, as many of each
    as `mrope_section` says.
    """
    inverse = 1.0 / theta ** (np.arange(0, head_dim, 2) / head_dim)  # [head_dim/2]
    axis = np.zeros(head_dim // 2, np.int64)
    axis[1 : 3 * mrope_section[1] : 3] = 1
    axis[2 : 3 * mrope_section[2] : 3] = 2
    angles = positions[axis].T * inverse  # [T, head_dim/2]
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
