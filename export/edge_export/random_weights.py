"""Names, shapes and random values of every tensor of a Qwen3-VL checkpoint, streamed into safetensors files.

At most `CHUNK_VALUES` values are in memory at once. Knows nothing of the other files of a checkpoint.
"""

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

LOGIT_STD = 4.0
"""Spread of the logits a random head gives: wide enough that the best two tokens are rarely within 1e-3."""


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


def tensor_specs(config: dict[str, Any]) -> Iterator[TensorSpec]:
    """Every tensor of a Qwen3-VL checkpoint, by its name in the file."""
    text, vision = config["text_config"], config["vision_config"]
    yield from _text_specs(text)
    if not config["tie_word_embeddings"]:
        yield TensorSpec("lm_head.weight", (text["vocab_size"], text["hidden_size"]), _head_std(text))
    yield from _vision_specs(vision)


# --- tensors: names, shapes, spread --------------------------------------------------------------------------------


def _linear(name: str, out_features: int, in_features: int, *, bias: bool, gain: float = 1.0) -> Iterator[TensorSpec]:
    """Weights that keep the size of what flows through them (times `gain`)."""
    yield TensorSpec(f"{name}.weight", (out_features, in_features), gain / math.sqrt(in_features))
    if bias:
        yield TensorSpec(f"{name}.bias", (out_features,), 0.02)


def _norm(name: str, size: int, *, bias: bool) -> Iterator[TensorSpec]:
    yield TensorSpec(f"{name}.weight", (size,), 0.1, mean=1.0)
    if bias:
        yield TensorSpec(f"{name}.bias", (size,), 0.1)


def _head_std(text: dict[str, Any]) -> float:
    return LOGIT_STD / math.sqrt(text["hidden_size"])


def _text_specs(text: dict[str, Any]) -> Iterator[TensorSpec]:
    hidden, head_dim, intermediate = text["hidden_size"], text["head_dim"], text["intermediate_size"]
    q_size, kv_size = text["num_attention_heads"] * head_dim, text["num_key_value_heads"] * head_dim
    yield TensorSpec("model.language_model.embed_tokens.weight", (text["vocab_size"], hidden), _head_std(text))
    for i in range(text["num_hidden_layers"]):
        layer = f"model.language_model.layers.{i}"
        yield from _norm(f"{layer}.input_layernorm", hidden, bias=False)
        yield from _linear(f"{layer}.self_attn.q_proj", q_size, hidden, bias=False)
        yield from _linear(f"{layer}.self_attn.k_proj", kv_size, hidden, bias=False)
        yield from _linear(f"{layer}.self_attn.v_proj", kv_size, hidden, bias=False)
        yield from _norm(f"{layer}.self_attn.q_norm", head_dim, bias=False)
        yield from _norm(f"{layer}.self_attn.k_norm", head_dim, bias=False)
        # Branches that outweigh the embedding: a tied head would otherwise repeat the last token for ever.
        yield from _linear(f"{layer}.self_attn.o_proj", hidden, q_size, bias=False, gain=4.0)
        yield from _norm(f"{layer}.post_attention_layernorm", hidden, bias=False)
        yield from _linear(f"{layer}.mlp.gate_proj", intermediate, hidden, bias=False)
        yield from _linear(f"{layer}.mlp.up_proj", intermediate, hidden, bias=False)
        yield from _linear(f"{layer}.mlp.down_proj", hidden, intermediate, bias=False, gain=8.0)
    yield from _norm("model.language_model.norm", hidden, bias=False)


def _vision_specs(vision: dict[str, Any]) -> Iterator[TensorSpec]:
    hidden, patch = vision["hidden_size"], vision["patch_size"]
    patch_shape = (vision["in_channels"], vision["temporal_patch_size"], patch, patch)
    yield TensorSpec(
        "model.visual.patch_embed.proj.weight", (hidden, *patch_shape), 1 / math.sqrt(math.prod(patch_shape))
    )
    yield TensorSpec("model.visual.patch_embed.proj.bias", (hidden,), 0.02)
    yield TensorSpec("model.visual.pos_embed.weight", (vision["num_position_embeddings"], hidden), 0.5)
    for i in range(vision["depth"]):
        block = f"model.visual.blocks.{i}"
        yield from _norm(f"{block}.norm1", hidden, bias=True)
        yield from _linear(f"{block}.attn.qkv", 3 * hidden, hidden, bias=True)
        yield from _linear(f"{block}.attn.proj", hidden, hidden, bias=True)
        yield from _norm(f"{block}.norm2", hidden, bias=True)
        yield from _linear(f"{block}.mlp.linear_fc1", vision["intermediate_size"], hidden, bias=True)
        yield from _linear(f"{block}.mlp.linear_fc2", hidden, vision["intermediate_size"], bias=True)
    merged = hidden * vision["spatial_merge_size"] ** 2
    mergers = [("model.visual.merger", hidden)]
    mergers += [
        (f"model.visual.deepstack_merger_list.{i}", merged) for i in range(len(vision["deepstack_visual_indexes"]))
    ]
    for merger, norm_size in mergers:
        yield from _norm(f"{merger}.norm", norm_size, bias=True)
        yield from _linear(f"{merger}.linear_fc1", merged, merged, bias=True)
        yield from _linear(f"{merger}.linear_fc2", vision["out_hidden_size"], merged, bias=True)


# --- safetensors, written in one pass ------------------------------------------------------------------------------


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
