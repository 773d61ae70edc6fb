"""The text decoder: embeddings of a whole sequence in, hidden states or logits out. Knows no pixels and no prompts.

No KV cache: a sequence runs in one pass, which is all a definition needs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edge_export.families.qwen3_vl.reference.config import TextConfig
from edge_export.families.qwen3_vl.reference.ops import Array, linear, rms_norm, rotate, silu, softmax
from edge_export.families.qwen3_vl.reference.positions import Ints, text_rotary
from edge_export.families.qwen3_vl.reference.weights import Weights

PREFIX = "model.language_model"


@dataclass(frozen=True, slots=True)
class DecoderInput:
    """A sequence as the decoder takes it."""

    inputs_embeds: Array
    """[T, D], image embeddings in place."""
    deepstack: Array
    """[L, T, D], zeros off the image."""
    position_ids: Ints
    """[3, T]: time, height, width."""


def decode(weights: Weights, config: TextConfig, inputs: DecoderInput) -> Array:
    """Hidden states [T, D], ready for the LM head."""
    rotary = text_rotary(inputs.position_ids, config.head_dim, config.rope_theta, config.mrope_section)
    x = inputs.inputs_embeds
    for i in range(config.num_hidden_layers):
        layer = f"{PREFIX}.layers.{i}"
        normed = rms_norm(x, weights[f"{layer}.input_layernorm.weight"], config.rms_norm_eps)
        x = x + _attention(weights, f"{layer}.self_attn", normed, rotary, config)
        normed = rms_norm(x, weights[f"{layer}.post_attention_layernorm.weight"], config.rms_norm_eps)
        x = x + _mlp(weights, f"{layer}.mlp", normed)
        if i < len(inputs.deepstack):
            x = x + inputs.deepstack[i]
    return rms_norm(x, weights[f"{PREFIX}.norm.weight"], config.rms_norm_eps)


def embed(weights: Weights, input_ids: Ints) -> Array:
    """Embedding rows [T, D] of token ids [T]."""
    return weights.rows(f"{PREFIX}.embed_tokens.weight", input_ids)


def lm_head(weights: Weights, hidden: Array) -> Array:
    """Logits [R, V] of hidden states [R, D]; without a head of its own, the model's is the embedding table."""
    name = "lm_head.weight" if "lm_head.weight" in weights else f"{PREFIX}.embed_tokens.weight"
    return np.concatenate([linear(hidden, rows) for rows in weights.row_blocks(name)], axis=-1)


def _attention(weights: Weights, name: str, x: Array, rotary: tuple[Array, Array], config: TextConfig) -> Array:
    """Causal grouped-query attention; Q and K are RMS-normalized per head before they are rotated."""
    t, d, eps = len(x), config.head_dim, config.rms_norm_eps
    q = linear(x, weights[f"{name}.q_proj.weight"]).reshape(t, config.num_attention_heads, d)
    k = linear(x, weights[f"{name}.k_proj.weight"]).reshape(t, config.num_key_value_heads, d)
    v = linear(x, weights[f"{name}.v_proj.weight"]).reshape(t, config.num_key_value_heads, d)
    q = rotate(rms_norm(q, weights[f"{name}.q_norm.weight"], eps), *rotary)
    k = rotate(rms_norm(k, weights[f"{name}.k_norm.weight"], eps), *rotary)

    future = np.triu(np.full((t, t), -np.inf, np.float32), k=1)  # [T, T]: what a token must not see
    heads = []
    for h in range(config.num_attention_heads):
        group = h // (config.num_attention_heads // config.num_key_value_heads)
        scores = q[:, h] @ k[:, group].T * np.float32(d**-0.5) + future
        heads.append(softmax(scores) @ v[:, group])
    return linear(np.concatenate(heads, axis=-1), weights[f"{name}.o_proj.weight"])  # [T, D]


def _mlp(weights: Weights, name: str, x: Array) -> Array:
    """SwiGLU (arXiv 2002.05202)."""
    gate = silu(linear(x, weights[f"{name}.gate_proj.weight"]))
    return linear(gate * linear(x, weights[f"{name}.up_proj.weight"]), weights[f"{name}.down_proj.weight"])
