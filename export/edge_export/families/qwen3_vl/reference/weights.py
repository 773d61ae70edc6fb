"""Tensors of a checkpoint by name, as float32, read when asked for. Knows nothing of what they mean."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import ml_dtypes  # noqa: F401  gives numpy the bfloat16 that safetensors asks it for
import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from edge_export.checkpoint.head import settle_head
from edge_export.checkpoint.json_file import read_json
from edge_export.checkpoint.weights import open_weights

Array = NDArray[np.float32]

Use = Literal["linear", "embedding", "head"]
"""What a tensor is read for: a tied embedding table is read for two uses."""


class Weights:
    """Lazy float32 view of a checkpoint's safetensors files.

    Tensors are kept once converted, up to `max_cached_bytes`; beyond that they are read again on every use, so that
    even an 8B reference runs in a few gigabytes, slowly. A file is opened anew for every read: safetensors maps it, and
    the pages of a mapping count as this process's memory until it is closed.
    """

    def __init__(self, checkpoint: Path, max_cached_bytes: int = 4 << 30) -> None:
        weights = open_weights(checkpoint)
        _, weights = settle_head(weights, read_json(checkpoint / "config.json"), lambda _: None)
        self._entries = weights.entries
        self._cache: dict[str, Array] = {}
        self._free_bytes = max_cached_bytes

    def __contains__(self, name: str) -> bool:
        """Whether the checkpoint has a tensor of this name."""
        return name in self._entries

    def __getitem__(self, name: str) -> Array:
        """The whole tensor. Raises `KeyError` with the name if there is none."""
        if name in self._cache:
            return self._cache[name]
        value = self.rounded(name, self._read(name), "linear")
        if value.nbytes <= self._free_bytes:
            self._cache[name] = value
            self._free_bytes -= value.nbytes
        return value

    def rows(self, name: str, indices: NDArray[np.int64]) -> Array:
        """Some rows [T, D] of the embedding table, without converting the rest."""
        distinct, places = np.unique(indices, return_inverse=True)
        entry = self._entries[name]
        with safe_open(entry.path, "np") as file:
            table = file.get_slice(entry.stored_name)
            rows = np.concatenate([table[int(row) : int(row) + 1] for row in distinct]).astype(np.float32)
        return self.rounded(name, rows, "embedding")[places]

    def row_blocks(self, name: str, num_rows: int = 1 << 13) -> Iterator[Array]:
        """The rows of the LM head, a block at a time, so that the float32 copy of all never exists."""
        entry = self._entries[name]
        start, total = 0, 1
        while start < total:
            with safe_open(entry.path, "np") as file:
                table = file.get_slice(entry.stored_name)
                total = table.get_shape()[0]
                rows = table[start : min(start + num_rows, total)].astype(np.float32)
            yield self.rounded(name, rows, "head")
            start += num_rows

    def _read(self, name: str) -> Array:
        entry = self._entries[name]
        with safe_open(entry.path, "np") as file:
            values: Array = file.get_tensor(entry.stored_name).astype(np.float32)
        return values

    def rounded(self, name: str, values: Array, use: Use) -> Array:  # noqa: ARG002
        """What the model computes with in the place of `values`, whole rows of `name`: here, the same."""
        return values
