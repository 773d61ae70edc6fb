"""A Qwen3-VL to draw at random: its `config.json`, and the names, shapes and spread of its tensors."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from edge_export.random_weights import TensorSpec

LOGIT_STD = 4.0
"""Spread of the logits a random head gives: wide enough that the best two tokens are rarely within 1e-3."""


def config_for(size: str) -> dict[str, Any]:
    """`config.json` of a published size ("2b", "4b", "8b"), or of a model small enough for tests ("tiny").

    The published sizes are those of the Qwen/Qwen3-VL-{2B,4B,8B}-Instruct model pages. Raises `ValueError` otherwise.
    """
    small_tower = {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "deepstack_visual_indexes": [5, 11, 17]}
    large_tower = {
        "depth": 27,
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "deepstack_visual_indexes": [8, 16, 24],
    }
    if size == "tiny":
        tower = {"depth": 4, "hidden_size": 64, "intermediate_size": 128, "deepstack_visual_indexes": [0, 1, 2]}
        config = _config(hidden=64, layers=4, heads=(4, 2), intermediate=128, tied=True, tower=tower)
        config["text_config"] |= {"head_dim": 32, "vocab_size": 1024, "rope_theta": 10000}
        config["text_config"]["rope_scaling"]["mrope_section"] = [6, 5, 5]
        config["vision_config"]["num_heads"] = 4
        return _with_special_tokens(config, first_special_id=960)
    if size == "2b":
        config = _config(hidden=2048, layers=28, heads=(16, 8), intermediate=6144, tied=True, tower=small_tower)
    elif size == "4b":
        config = _config(hidden=2560, layers=36, heads=(32, 8), intermediate=9728, tied=True, tower=small_tower)
    elif size == "8b":
        config = _config(hidden=4096, layers=36, heads=(32, 8), intermediate=12288, tied=False, tower=large_tower)
    else:
        raise ValueError(f"there is no size {size!r}; choose one of tiny, 2b, 4b, 8b")
    return _with_special_tokens(config, first_special_id=151643)


def tensor_specs(config: dict[str, Any]) -> Iterator[TensorSpec]:
    """Every tensor of a Qwen3-VL checkpoint, by its name in the file."""
    text, vision = config["text_config"], config["vision_config"]
    yield from _text_specs(text)
    if not config["tie_word_embeddings"]:
        yield TensorSpec("lm_head.weight", (text["vocab_size"], text["hidden_size"]), _head_std(text))
    yield from _vision_specs(vision)


def _config(
    *, hidden: int, layers: int, heads: tuple[int, int], intermediate: int, tied: bool, tower: dict[str, Any]
) -> dict[str, Any]:
    text = {
        "model_type": "qwen3_vl_text",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "head_dim": 128,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "initializer_range": 0.02,
        "intermediate_size": intermediate,
        "max_position_embeddings": 262144,
        "num_attention_heads": heads[0],
        "num_hidden_layers": layers,
        "num_key_value_heads": heads[1],
        "rms_norm_eps": 1e-06,
        "rope_scaling": {"mrope_interleaved": True, "mrope_section": [24, 20, 20], "rope_type": "default"},
        "rope_theta": 5000000,
        "tie_word_embeddings": tied,
        "use_cache": True,
        "vocab_size": 151936,
    }
    vision = {
        "model_type": "qwen3_vl",
        "hidden_act": "gelu_pytorch_tanh",
        "in_channels": 3,
        "initializer_range": 0.02,
        "num_heads": 16,
        "num_position_embeddings": 2304,
        "out_hidden_size": hidden,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }
    return {
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "model_type": "qwen3_vl",
        "text_config": text,
        "vision_config": vision | tower,
        "tie_word_embeddings": tied,
        "transformers_version": "4.57.6",
    }


def _with_special_tokens(config: dict[str, Any], first_special_id: int) -> dict[str, Any]:
    """Add the ids of Qwen's special tokens, which lie at fixed distances from the first, `<|endoftext|>`."""
    config["text_config"] |= {"bos_token_id": first_special_id, "eos_token_id": first_special_id + 2}
    return config | {
        "vision_start_token_id": first_special_id + 9,
        "vision_end_token_id": first_special_id + 10,
        "image_token_id": first_special_id + 12,
        "video_token_id": first_special_id + 13,
    }


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
