"""The weights of a checkpoint, in one or many safetensors files, by names that do not depend on who wrote them.

Canonical names are those of transformers 4.57 and 5.x (`model.visual.`, `model.language_model.`, `lm_head.weight`);
older layouts (`visual.`, `model.`) are found too. Knows nothing of the graphs the weights end up in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_export.checkpoint.json_file import read_json
from edge_export.checkpoint.safetensors_file import TensorEntry, read_header, read_values
from edge_export.errors import ConfigError, CorruptShard, MissingShard, MissingTensor, NotFinite, WrongShape

SINGLE_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"

VISION_PREFIXES = ("model.visual.", "visual.")
TEXT_PREFIXES = ("model.language_model.", "language_model.model.", "language_model.", "model.")
HEAD_NAMES = ("lm_head.weight", "language_model.lm_head.weight")
"""Layouts of the generations of transformers, the present one first."""

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


def open_weights(folder: Path) -> Weights:
    """Read the headers of all shards in `folder`. Raises `MissingShard`, `CorruptShard` or `UnknownDtype`."""
    shards = _find_shards(folder)
    entries: dict[str, TensorEntry] = {}
    for shard in shards:
        entries |= read_header(shard)
    return Weights(_canonical(entries), shards)


def _find_shards(folder: Path) -> tuple[Path, ...]:
    index = folder / INDEX_NAME
    if index.is_file():
        return _indexed_shards(index)
    if (folder / SINGLE_NAME).is_file():
        return (folder / SINGLE_NAME,)
    found = sorted(folder.glob("*.safetensors"))
    if found:
        raise MissingShard(f"{folder} holds {found[0].name} but no {INDEX_NAME}; download the index too")
    raise MissingShard(
        f"{folder} has neither {SINGLE_NAME} nor {INDEX_NAME}; the exporter reads safetensors only, so convert "
        ".bin weights with save_pretrained(..., safe_serialization=True)"
    )


def _indexed_shards(index: Path) -> tuple[Path, ...]:
    try:
        weight_map = read_json(index).values["weight_map"]
        names = sorted({str(name) for name in weight_map.values()})
    except (ConfigError, KeyError, AttributeError) as error:
        raise CorruptShard(f"{index} is no index of shards ({error}); download it again") from error
    # A name is a plain file name: an index must not lead out of its folder.
    if not names or any(Path(name).name != name for name in names):
        raise CorruptShard(f"{index} names the files {names}; they must lie beside it. Download it again")
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise MissingShard(
            f"{index.parent} lacks {len(missing)} of {len(names)} weight files: {', '.join(missing[:4])}; "
            "finish the download"
        )
    return tuple(index.parent / name for name in names)


def _canonical(entries: dict[str, TensorEntry]) -> dict[str, TensorEntry]:
    """Rename the tensors of any known layout; tensors of no known part keep their names and are never asked for."""
    vision = next((p for p in VISION_PREFIXES if f"{p}pos_embed.weight" in entries), VISION_PREFIXES[0])
    text = next((p for p in TEXT_PREFIXES if f"{p}embed_tokens.weight" in entries), TEXT_PREFIXES[0])
    renamed = {}
    for name, entry in entries.items():
        if name in HEAD_NAMES:
            renamed[HEAD_NAMES[0]] = entry
        elif name.startswith(vision):
            renamed[VISION_PREFIXES[0] + name.removeprefix(vision)] = entry
        elif name.startswith(text):
            renamed[TEXT_PREFIXES[0] + name.removeprefix(text)] = entry
        else:
            renamed[name] = entry
    return renamed
