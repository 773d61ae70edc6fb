"""The vision tower: patches of one temporal patch to image embeddings and DeepStack features. Knows no text."""

from __future__ import annotations

import numpy as np

from edge_export.families.qwen3_vl.reference.config import VisionConfig
from edge_export.families.qwen3_vl.reference.ops import Array, gelu, gelu_tanh, layer_norm, linear, rotate, softmax
from edge_export.families.qwen3_vl.reference.positions import position_interpolation, vision_rotary
from edge_export.families.qwen3_vl.reference.preprocess import Patches
from edge_export.families.qwen3_vl.reference.weights import Weights

PREFIX = "model.visual"


def vision_tower(weights: Weights, config: VisionConfig, patches: Patches) -> tuple[Array, Array]:
    """Image embeddings [N/4, D] and DeepStack features [L, N/4, D] of one image or video frame pair."""
    w = weights
    kernel = w[f"{PREFIX}.patch_embed.proj.weight"]  # [hidden, C, temporal, patch, patch]
    x = linear(patches.pixel_values, kernel.reshape(len(kernel), -1), w[f"{PREFIX}.patch_embed.proj.bias"])

    index, weight = position_interpolation(patches.grid, config.spatial_merge_size, config.num_position_embeddings)
    x = x + np.einsum("cn,cnd->nd", weight, w[f"{PREFIX}.pos_embed.weight"][index])  # [N, hidden]

    rotary = vision_rotary(patches.grid, config.spatial_merge_size, config.head_dim)
    deepstack = []
    for i in range(config.depth):
        x = _block(w, f"{PREFIX}.blocks.{i}", x, rotary, config)
        if i in config.deepstack_visual_indexes:
            tap = config.deepstack_visual_indexes.index(i)
            deepstack.append(_merger(w, f"{PREFIX}.deepstack_merger_list.{tap}", x, config, norm_after_merge=True))
    image_embeds = _merger(w, f"{PREFIX}.merger", x, config, norm_after_merge=False)  # [N/4, D]
    taps = np.stack(deepstack) if deepstack else np.zeros((0, *image_embeds.shape), np.float32)
    return image_embeds, taps


def _block(w: Weights, name: str, x: Array, rotary: tuple[Array, Array], config: VisionConfig) -> Array:
    x = x + _attention(w, f"{name}.attn", _norm(w, f"{name}.norm1", x), rotary, config)
    act = {"gelu": gelu, "gelu_pytorch_tanh": gelu_tanh}[config.hidden_act]
    up = act(_linear(w, f"{name}.mlp.linear_fc1", _norm(w, f"{name}.norm2", x)))
    return x + _linear(w, f"{name}.mlp.linear_fc2", up)


def _attention(w: Weights, name: str, x: Array, rotary: tuple[Array, Array], config: VisionConfig) -> Array:
    """Every patch sees every patch. One head at a time: [N, N] is then the largest thing in memory."""
    n, d = len(x), config.head_dim
    q, k, v = _linear(w, f"{name}.qkv", x).reshape(n, 3, config.num_heads, d).swapaxes(0, 1)  # each [N, H, d]
    q, k = rotate(q, *rotary), rotate(k, *rotary)
    heads = [softmax(q[:, h] @ k[:, h].T * np.float32(d**-0.5)) @ v[:, h] for h in range(config.num_heads)]
    return _linear(w, f"{name}.proj", np.concatenate(heads, axis=-1))  # [N, hidden]


def _merger(w: Weights, name: str, x: Array, config: VisionConfig, *, norm_after_merge: bool) -> Array:
    """Four adjacent patches become one token. DeepStack's mergers normalize the four together, the last one each.

    The activation between is the exact GELU whatever `hidden_act` says.
    """
    merged = config.hidden_size * config.spatial_merge_size**2
    if norm_after_merge:
        x = _norm(w, f"{name}.norm", x.reshape(-1, merged))
    else:
        x = _norm(w, f"{name}.norm", x).reshape(-1, merged)  # [N/4, 4 * hidden]
    return _linear(w, f"{name}.linear_fc2", gelu(_linear(w, f"{name}.linear_fc1", x)))


def _linear(w: Weights, name: str, x: Array) -> Array:
    return linear(x, w[f"{name}.weight"], w[f"{name}.bias"])


def _norm(w: Weights, name: str, x: Array) -> Array:
    return layer_norm(x, w[f"{name}.weight"], w[f"{name}.bias"])
