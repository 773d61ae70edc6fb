"""Every tensor of a model by its canonical name, and what is to be said of all others: nothing goes missing unseen."""

from __future__ import annotations

import re
from collections.abc import Iterator

from edge_export.checkpoint.layouts import EMBEDDING_NAME, HEAD_NAME, TEXT_PREFIXES, VISION_PREFIXES, listed
from edge_export.checkpoint.safetensors_file import ITEM_BYTES
from edge_export.checkpoint.shards import Warn
from edge_export.checkpoint.weights import Weights
from edge_export.errors import UnknownDtype, UnusedTensor, WrongShape
from edge_runtime.families.qwen3_vl.config import Architecture, TextArchitecture, VisionArchitecture

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


def check_tensors(weights: Weights, architecture: Architecture, *, tied: bool, warn: Warn) -> Weights:
    """The weights that `architecture` asks for, and no others.

    Raises `MissingTensor`, `WrongShape` or `UnknownDtype`, and `UnusedTensor` if one is left over that is not known to
    change no answer.
    """
    used = set()
    for name, shape in model_tensors(architecture, tied=tied):  # ends with the first that is missing
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


def model_tensors(architecture: Architecture, *, tied: bool) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every tensor that the graphs and the embedding table are made of, with its shape."""
    yield from _text_tensors(architecture.text)
    if not tied:
        yield HEAD_NAME, (architecture.text.vocab_size, architecture.text.hidden_size)
    yield from _vision_tensors(architecture.vision)


def _check_vocabulary(weights: Weights, name: str, shape: tuple[int, ...]) -> None:
    entry = weights.entries.get(name)
    if name in (EMBEDDING_NAME, HEAD_NAME) and entry and len(entry.shape) == 2 and entry.shape != shape:
        raise WrongShape(
            f"{entry.path}: {name} has shape {list(entry.shape)}, config.json asks for {list(shape)}; if tokens were "
            f"added and the vocabulary resized, set vocab_size in text_config to {entry.shape[0]}, else take both "
            "files from the same model"
        )


def _text_tensors(text: TextArchitecture) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden, inner, prefix = text.hidden_size, text.intermediate_size, TEXT_PREFIXES[0]
    q_size, kv_size = text.num_attention_heads * text.head_dim, text.num_kv_heads * text.head_dim
    yield EMBEDDING_NAME, (text.vocab_size, hidden)
    yield f"{prefix}norm.weight", (hidden,)
    for i in range(text.num_layers):
        layer = f"{prefix}layers.{i}"
        yield f"{layer}.input_layernorm.weight", (hidden,)
        yield f"{layer}.post_attention_layernorm.weight", (hidden,)
        yield f"{layer}.self_attn.q_proj.weight", (q_size, hidden)
        yield f"{layer}.self_attn.k_proj.weight", (kv_size, hidden)
        yield f"{layer}.self_attn.v_proj.weight", (kv_size, hidden)
        yield f"{layer}.self_attn.o_proj.weight", (hidden, q_size)
        yield f"{layer}.self_attn.q_norm.weight", (text.head_dim,)
        yield f"{layer}.self_attn.k_norm.weight", (text.head_dim,)
        yield f"{layer}.mlp.gate_proj.weight", (inner, hidden)
        yield f"{layer}.mlp.up_proj.weight", (inner, hidden)
        yield f"{layer}.mlp.down_proj.weight", (hidden, inner)


def _vision_tensors(vision: VisionArchitecture) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden, inner, prefix = vision.hidden_size, vision.intermediate_size, VISION_PREFIXES[0]
    patch_shape = (vision.in_channels, vision.temporal_patch_size, vision.patch_size, vision.patch_size)
    merged = hidden * vision.spatial_merge_size**2
    yield f"{prefix}pos_embed.weight", (vision.num_position_embeddings, hidden)
    yield from _with_bias(f"{prefix}patch_embed.proj", hidden, *patch_shape)
    taps = [(f"{prefix}deepstack_merger_list.{i}", merged) for i in range(len(vision.deepstack_layers))]
    for merger, norm_size in [(f"{prefix}merger", hidden), *taps]:
        yield from _with_bias(f"{merger}.norm", norm_size)
        yield from _with_bias(f"{merger}.linear_fc1", merged, merged)
        yield from _with_bias(f"{merger}.linear_fc2", vision.out_hidden_size, merged)
    for i in range(vision.depth):
        block = f"{prefix}blocks.{i}"
        yield from _with_bias(f"{block}.norm1", hidden)
        yield from _with_bias(f"{block}.norm2", hidden)
        yield from _with_bias(f"{block}.attn.qkv", 3 * hidden, hidden)
        yield from _with_bias(f"{block}.attn.proj", hidden, hidden)
        yield from _with_bias(f"{block}.mlp.linear_fc1", inner, hidden)
        yield from _with_bias(f"{block}.mlp.linear_fc2", hidden, inner)


def _with_bias(path: str, *shape: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{path}.weight", shape
    yield f"{path}.bias", shape[:1]
