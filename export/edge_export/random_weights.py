"""Random tensors, drawn and streamed into safetensors files, at most `CHUNK_VALUES` values at once. Knows no model."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

DTYPES: dict[str, tuple[str, Any]] = {
    "float32": ("F32", np.dtype(np.float32)),
    "float16": ("F16", np.dtype(np.float16)),
    "bfloat16": ("BF16", np.dtype(ml_dtypes.bfloat16)),
}
"""Name in a safetensors header, and numpy type, of each dtype a checkpoint may have."""

CHUNK_VALUES = 1 << 24
"""Values drawn at once: 64 MB of float32."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor to draw: normal with this mean and standard deviation."""

    name: str
    shape: tuple[int, ...]
    std: float
    mean: float = 0.0

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


def write_weights(out: Path, specs: list[TensorSpec], dtype: str, seed: int, max_shard_bytes: int | None) -> None:
    """Draw `specs` and write them as `model.safetensors`, or as shards of at most `max_shard_bytes` with an index."""
    itemsize = DTYPES[dtype][1].itemsize
    shards = _split(specs, itemsize, max_shard_bytes)
    if len(shards) == 1:
        _write_shard(out / "model.safetensors", specs, dtype, seed)
        return
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_shard(out / name, shard, dtype, seed)
        weight_map |= {spec.name: name for spec in shard}
    index = {"metadata": {"total_size": sum(spec.size for spec in specs) * itemsize}, "weight_map": weight_map}
    (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def _split(specs: list[TensorSpec], itemsize: int, max_shard_bytes: int | None) -> list[list[TensorSpec]]:
    """Fill shards in order; a tensor larger than the limit has a shard of its own."""
    shards: list[list[TensorSpec]] = [[]]
    used = 0
    for spec in specs:
        size = spec.size * itemsize
        if max_shard_bytes is not None and shards[-1] and used + size > max_shard_bytes:
            shards.append([])
            used = 0
        shards[-1].append(spec)
        used += size
    return shards


def _write_shard(path: Path, specs: list[TensorSpec], dtype: str, seed: int) -> None:
    """Header length (u64), JSON header padded to 8 bytes, then the tensors: the safetensors format."""
    tag, np_dtype = DTYPES[dtype]
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for spec in specs:
        end = offset + spec.size * np_dtype.itemsize
        header[spec.name] = {"dtype": tag, "shape": list(spec.shape), "data_offsets": [offset, end]}
        offset = end
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little"))
        file.write(encoded)
        for spec in specs:
            for values in _draw(spec, seed):
                file.write(values.astype(np_dtype).tobytes())


def _draw(spec: TensorSpec, seed: int) -> Iterator[NDArray[np.float32]]:
    """The values of one tensor in file order, at most `CHUNK_VALUES` at a time."""
    rng = np.random.default_rng([seed, zlib.crc32(spec.name.encode())])
    for start in range(0, spec.size, CHUNK_VALUES):
        count = min(CHUNK_VALUES, spec.size - start)
        values = rng.standard_normal(count, dtype=np.float32)
        values *= np.float32(spec.std)
        values += np.float32(spec.mean)
        yield values
