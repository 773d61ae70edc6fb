"""The weights of a checkpoint, in one or many safetensors files, by canonical names (`layouts.py`).

Knows nothing of the graphs the weights end up in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_export.checkpoint.layouts import canonical
from edge_export.checkpoint.safetensors_file import TensorEntry, read_values
from edge_export.checkpoint.shards import Warn, read_shards
from edge_export.errors import MissingTensor, NotFinite, WrongShape

HASH_CHUNK_BYTES = 1 << 22

MAX_WEIGHT = 1e15
"""No trained weight is within many orders of it, and sums of squares over a block of such values still fit float32."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Lazily read tensors: nothing but headers is in memory."""

    entries: dict[str, TensorEntry]
    """By canonical name."""
    shards: tuple[Path, ...]

    def __contains__(self, name: str) -> bool:
        return name in self.entries

    def require(self, name: str, shape: tuple[int, ...]) -> TensorEntry:
        """The tensor `name`. Raises `MissingTensor`, or `WrongShape` if it has not `shape`."""
        entry = self.entries.get(name)
        if entry is None:
            raise MissingTensor(
                f"{self.shards[0].parent} has no tensor {name}; config.json asks for it with shape {list(shape)}, "
                "so config.json and the weights are of different models, or the weights are incomplete"
            )
        if entry.shape != shape:
            raise WrongShape(
                f"{entry.path}: {name} has shape {list(entry.shape)}, config.json asks for {list(shape)}; "
                "take both from the same model"
            )
        return entry

    def rows(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        """Rows [start, stop) of `name` as float32 [stop - start, values per row]; later dimensions are flattened.

        Safe from several threads. Raises `NotFinite` for NaN, Inf and values beyond `MAX_WEIGHT`.
        """
        entry = self.entries[name]
        row_values = entry.size // entry.shape[0]
        values = read_values(entry, start * row_values, (stop - start) * row_values)
        largest = max(float(values.max()), -float(values.min()))
        if not largest <= MAX_WEIGHT:  # NaN is not, either
            raise NotFinite(
                f"{entry.path}: {name} holds NaN, Inf or a value beyond {MAX_WEIGHT:.0e} in rows {start} to "
                f"{stop - 1}; the checkpoint is damaged, or its training diverged: download it again"
            )
        return values.reshape(stop - start, row_values)

    def sha256(self, config: Path, on_read: Callable[[int], None]) -> str:
        """Identity of the checkpoint: SHA-256 over `config.json` and the shards in the order of their names."""
        digest = hashlib.sha256(config.read_bytes())
        buffer = bytearray(HASH_CHUNK_BYTES)
        for shard in sorted(self.shards):
            with shard.open("rb", buffering=0) as file:
                while count := file.readinto(buffer):
                    digest.update(memoryview(buffer)[:count])
                    on_read(count)
        return digest.hexdigest()


def open_weights(folder: Path, warn: Warn = lambda _: None) -> Weights:
    """Read the headers of all shards in `folder`; `warn` is told of what lies there unread, or renamed.

    Raises `UnmergedAdapter`, `MissingShard`, `CorruptShard`, `UnknownDtype` or `UnusedTensor`.
    """
    stored, shards = read_shards(folder, warn)
    return Weights(canonical(stored, warn), shards)
