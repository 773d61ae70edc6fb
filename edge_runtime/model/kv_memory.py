"""The memory of keys and values: blocks of a fixed number of tokens, in one array per layer and kind.

Knows neither who holds which block (kv_cache.py) nor what is computed from them.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import InternalError
from edge_runtime.model.graph import Array

Rows = tuple[np.dtype[np.generic], tuple[int, ...]]
"""Type and shape of what one head keeps of one token: [head_dim] of a key or value, [] of a scale."""


class KVMemory:
    """`num_blocks` blocks, each with the keys and values of `block_size` tokens over all layers."""

    def __init__(self, rows: Mapping[str, Rows], num_heads: int, num_blocks: int, block_size: int) -> None:
        """`rows`: by name of a graph's input, what it keeps. Takes memory only once a token is written there."""
        self.arrays: dict[str, Array] = {
            name: _pages((num_blocks, num_heads, block_size, *shape), dtype) for name, (dtype, shape) in rows.items()
        }
        """By name: [num_blocks, num_heads, block_size, ...]."""
        self._num_blocks = num_blocks
        self._block_size = block_size

    def copy_rows(self, sources: NDArray[np.int64], targets: NDArray[np.int64], into: KVMemory | None = None) -> None:
        """Copy row `sources[i]` to row `targets[i]`, maybe of another memory that is alike. They count through blocks.

        Within one memory both must rise, and no target may lie behind its source: else a copy is copied.
        """
        into = into or self
        ours, theirs = self._block_size, into._block_size
        steps = [np.diff(rows) != 1 for rows in (sources, targets)]
        ends = [rows[1:] % size == 0 for rows, size in ((sources, ours), (targets, theirs))]
        cuts = np.flatnonzero(np.any((*steps, *ends), axis=0)) + 1
        for first, last in zip((0, *cuts), (*cuts, len(sources)), strict=True):
            num_rows = int(last - first)
            if not num_rows:
                continue
            source, start = divmod(int(sources[first]), ours)
            target, place = divmod(int(targets[first]), theirs)
            self._check(source, start + num_rows)
            into._check(target, place + num_rows)
            for name, array in self.arrays.items():
                rows = array[source, :, start : start + num_rows]
                into.arrays[name][target, :, place : place + num_rows] = rows

    def dump(self, block: int, num_tokens: int, start: int = 0) -> bytes:
        """Tokens of a block from `start` on: per array [num_heads, num_tokens, ...], one behind the other."""
        return b"".join(np.ascontiguousarray(view).data for view in self._views(block, num_tokens, start))

    def load(self, block: int, num_tokens: int, saved: bytes, start: int = 0) -> None:
        """Write what `dump` gave to the tokens from `start` on. Raises `InternalError` for another length."""
        views = self._views(block, num_tokens, start)
        if len(saved) != sum(view.nbytes for view in views):
            raise InternalError(f"{len(saved)} bytes of keys and values do not fit {num_tokens} tokens")
        offset = 0
        for view in views:
            view[:] = np.frombuffer(saved, view.dtype, view.size, offset).reshape(view.shape)
            offset += view.nbytes

    def _views(self, block: int, num_tokens: int, start: int) -> list[Array]:
        self._check(block, num_tokens, start)
        return [array[block, :, start : start + num_tokens] for array in self.arrays.values()]

    def _check(self, block: int, num_tokens: int, start: int = 0) -> None:
        if not (0 <= block < self._num_blocks and 0 <= start <= start + num_tokens <= self._block_size):
            raise InternalError(
                f"{start} + {num_tokens} tokens of block {block}, of {self._num_blocks} blocks of {self._block_size}, "
                "were asked for"
            )


def bytes_per_token(rows: Mapping[str, Rows], num_heads: int) -> int:
    """What a token takes of all arrays together."""
    return num_heads * sum(dtype.itemsize * math.prod(shape) for dtype, shape in rows.values())


def _pages(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Array:
    """Anonymous pages: zeros that take no memory until they are written."""
    return np.frombuffer(mmap.mmap(-1, math.prod(shape) * dtype.itemsize), dtype=dtype).reshape(shape)
