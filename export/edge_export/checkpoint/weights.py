"""The weights of a checkpoint, in one or many safetensors files, by canonical names (`layouts.py`).

What of them no model asks for is refused, or named: nothing goes missing unseen. Knows nothing of the graphs the
weights end up in.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_export.checkpoint.layouts import EMBEDDING_NAME, HEAD_NAME, canonical, listed
from edge_export.checkpoint.safetensors_file import ITEM_BYTES, TensorEntry, read_values
from edge_export.checkpoint.shards import Warn, read_shards
from edge_export.errors import MissingTensor, NotFinite, UnknownDtype, UnusedTensor, WrongShape

HASH_CHUNK_BYTES = 1 << 22

MAX_WEIGHT = 1e15
"""No trained weight is within many orders of it, and sums of squares over a block of such values still fit float32."""

_BUFFER = re.compile(r"(?:^|\.)rotary(?:_pos)?_emb\.(?:original_)?inv_freq$")
"""Written by old versions of transformers, which computes it from the config, as we do."""

_SPECULATION = re.compile(r"^(?:model\.|language_model\.)*mtp\.")
"""Layers that guess further tokens: the answers are the same without."""

_REASONS = (
    (
        r"(?:^|\.)(?:value_head|v_head|score|classifier|reward_head|regression_head|qa_outputs|embedding_head)\.",
        "it is a head for scores or vectors, and the exporter takes models that answer in text",
    ),
    (
        r"\.(?:experts|router|shared_experts?|shared_expert_gate)\.|\.mlp\.gate\.",
        "it is of a mixture of experts, and only dense models can be exported",
    ),
    (
        r"\.layers\.\d+\.|\.blocks\.\d+\.|\.deepstack_merger_list\.\d+\.",
        "config.json asks for no such layer, or no such part of one, so config.json is of another model",
    ),
    ("", "it is no part of a Qwen3-VL, so leaving it out would give another model than was trained"),
)
"""The first pattern that is found in the name of an unused tensor says why it is not used."""


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


def check_tensors(weights: Weights, wanted: Iterable[tuple[str, tuple[int, ...]]], warn: Warn) -> Weights:
    """The `wanted` tensors, by name and shape, and no others.

    Raises `MissingTensor`, `WrongShape` or `UnknownDtype`, and `UnusedTensor` if one is left over that is not known to
    change no answer.
    """
    used = set()
    for name, shape in wanted:  # ends with the first that is missing
        _check_vocabulary(weights, name, shape)
        entry = weights.require(name, shape)
        if entry.dtype not in ITEM_BYTES:
            raise UnknownDtype(
                f"{entry.path}: {name} is stored as {entry.dtype}; the exporter reads {', '.join(ITEM_BYTES)}, "
                "so export from the unquantized checkpoint"
            )
        used.add(name)
    left = [name for name in weights.entries if name not in used and not _BUFFER.search(name)]
    if speculative := [name for name in left if _SPECULATION.match(name)]:
        warn(f"left out: {listed(speculative)}; they guess further tokens, and change no answer")
    if left := [name for name in left if not _SPECULATION.match(name)]:
        reason = next(reason for pattern, reason in _REASONS if re.search(pattern, left[0]))
        names = listed(weights.entries[name].stored_name for name in left)
        raise UnusedTensor(f"{weights.shards[0].parent} holds tensors that would not be exported: {names}; {reason}")
    return Weights({name: entry for name, entry in weights.entries.items() if name in used}, weights.shards)


def _check_vocabulary(weights: Weights, name: str, shape: tuple[int, ...]) -> None:
    entry = weights.entries.get(name)
    if name in (EMBEDDING_NAME, HEAD_NAME) and entry and len(entry.shape) == 2 and entry.shape != shape:
        raise WrongShape(
            f"{entry.path}: {name} has shape {list(entry.shape)}, config.json asks for {list(shape)}; if tokens were "
            f"added and the vocabulary resized, set vocab_size in text_config to {entry.shape[0]}, else take both "
            "files from the same model"
        )
