"""Every tensor of a Qwen3-VL by its canonical name, with its shape."""

from __future__ import annotations

from collections.abc import Iterator

from edge_export.checkpoint.layouts import EMBEDDING_NAME, HEAD_NAME, TEXT_PREFIXES, VISION_PREFIXES
from edge_runtime.families.qwen3_vl.config import Architecture, TextArchitecture, VisionArchitecture


def model_tensors(architecture: Architecture, *, tied: bool) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every tensor that the graphs and the embedding table are made of, with its shape."""
    yield from _text_tensors(architecture.text)
    if not tied:
        yield HEAD_NAME, (architecture.text.vocab_size, architecture.text.hidden_size)
    yield from _vision_tensors(architecture.vision)


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
