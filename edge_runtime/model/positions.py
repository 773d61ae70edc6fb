"""Interleaved M-RoPE: three position ids per token, and the rotary tables made from them. Knows nothing of pixels.

The rules are transformers' `qwen3_vl/modeling_qwen3_vl.py: get_rope_index, Qwen3VLTextRotaryEmbedding`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge_runtime.model.manifest import TextArchitecture
from edge_runtime.model.prompt import VisionSpan


def prompt_positions(num_tokens: int, spans: Sequence[VisionSpan]) -> tuple[NDArray[np.int64], int]:
    """Position ids [3, T] (time, row, column) of a prompt, and its rope delta.

    Text counts up on all three axes alike. A grid of image tokens stands at one time, spreads over rows and columns,
    and the text after it goes on past its longer side. A video is separate grids: its time is in the text between them.
    The token at index i after the prompt has position i + delta on every axis.
    """
    positions = np.empty((3, num_tokens), dtype=np.int64)
    index = 0
    position = 0
    for span in spans:
        position = _fill_text(positions, index, span.start, position)
        rows, columns = np.divmod(np.arange(span.grid.num_tokens), span.grid.columns)
        positions[:, span.start : span.stop] = position + np.stack((np.zeros_like(rows), rows, columns))
        position += max(span.grid.rows, span.grid.columns)
        index = span.stop
    position = _fill_text(positions, index, num_tokens, position)
    return positions, position - num_tokens


def _fill_text(positions: NDArray[np.int64], start: int, stop: int, position: int) -> int:
    positions[:, start:stop] = np.arange(position, position + stop - start)
    return position + stop - start


class RotaryTables:
    """Cosine and sine tables for any position ids."""

    def __init__(self, text: TextArchitecture) -> None:
        half = text.head_dim // 2
        exponent = np.arange(0, text.head_dim, 2, dtype=np.float32) / np.float32(text.head_dim)
        power = np.power(text.rope_theta, exponent.astype(np.float64)).astype(np.float32)
        self._inv_freq = np.float32(1) / power  # [head_dim / 2]
        # Frequency j turns with time, except that rows take 1, 4, 7, ... and columns 2, 5, 8, ..., as many as they own.
        self._axis = np.zeros(half, dtype=np.int64)
        for axis in (1, 2):
            self._axis[axis : text.mrope_section[axis] * 3 : 3] = axis

    def __call__(self, position_ids: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Tables cos, sin, float32 [T, head_dim / 2], of `position_ids` [3, T]."""
        angles = position_ids.astype(np.float32)[self._axis].T * self._inv_freq  # [T, head_dim / 2]
        return np.cos(angles), np.sin(angles)
