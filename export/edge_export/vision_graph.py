"""The vision tower as a graph: docs/bundle.md gives its inputs and outputs.

Layers and names follow transformers, models/qwen3_vl/modeling_qwen3_vl.py (Qwen3VLVisionModel). All values are
[N, ...], the patches of one frame in merge order; N / 4 stands for N / spatial_merge_size^2. Which operators compute
it is up to the flavour (`layers.Layers`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edge_export.graph import GraphBuilder, Value
from edge_export.layers import Activation, Layers, Linear, Parts, Rotary, Stream
from edge_export.weight_writer import WeightWriter
from edge_runtime.model.manifest import TensorFormat, VisionArchitecture

NUM_CORNERS = 4
"""Rows of the position table between which a patch's position is interpolated."""


@dataclass(frozen=True, slots=True)
class Tower:
    """What every part of the tower needs."""

    layers: Layers
    vision: VisionArchitecture
    weights: TensorFormat
    rotary: Rotary

    def linear(self, path: str, *shape: int) -> Linear:
        """A linear layer; all of the tower's have a bias."""
        return Linear(path, shape, self.weights, bias=True)


def build_vision(
    vision: VisionArchitecture, weights: TensorFormat, writer: WeightWriter, layers: Layers
) -> GraphBuilder:
    """Build the graph, writing its weights on the way."""
    g = GraphBuilder("vision")
    pixel_values = g.input("pixel_values", np.float32, ["N", vision.patch_dim])
    pos_index = g.input("pos_index", np.int64, [NUM_CORNERS, "N"])
    pos_weight = g.input("pos_weight", np.float32, [NUM_CORNERS, "N"])
    rotary = Rotary(*(g.input(name, np.float32, ["N", vision.head_dim // 2]) for name in ("rope_cos", "rope_sin")))
    tower = Tower(layers, vision, weights, rotary)

    parts = Parts(g, writer, "model.visual.")
    patch_shape = (vision.in_channels, vision.temporal_patch_size, vision.patch_size, vision.patch_size)
    # The checkpoint's convolution has stride = kernel = one patch: a linear layer on flattened patches.
    patches = layers.linear(parts, pixel_values, tower.linear("patch_embed.proj", vision.hidden_size, *patch_shape))
    stream = Stream(patches, _position_embedding(parts, pos_index, pos_weight, vision))
    deepstack: list[Value] = []
    for i in range(vision.depth):
        with parts.module(f"blocks.{i}") as block:
            stream = _block(block, tower, stream)
        if i in vision.deepstack_layers:
            stream = Stream(stream.sum(g))
            path = f"deepstack_merger_list.{len(deepstack)}"
            deepstack.append(_merger(parts, path, stream, tower, merge_before_norm=True))

    image_embeds = _merger(parts, "merger", stream, tower, merge_before_norm=False)
    g.output(image_embeds, "image_embeds", np.float32, ["N/4", vision.out_hidden_size])
    if deepstack:
        axis = g.integers(0)
        stacked = g.op("Concat", [g.op("Unsqueeze", [tap, axis]) for tap in deepstack], {"axis": 0})
        g.output(stacked, "deepstack", np.float32, [len(deepstack), "N/4", vision.out_hidden_size])
    return g


def _position_embedding(parts: Parts, index: Value, weight: Value, vision: VisionArchitecture) -> Value:
    """Sum over the four corners of weight * table[index], [N, hidden]; corner by corner, to hold few [N, hidden]."""
    g = parts.graph
    with parts.module("pos_embed") as module:
        table = module.vector("weight", vision.num_position_embeddings, vision.hidden_size)
        total: Value | None = None
        for corner in range(NUM_CORNERS):
            row = g.constant(np.array(corner, dtype=np.int64))
            rows = g.op("Gather", [table, g.op("Gather", [index, row], {"axis": 0})], {"axis": 0})
            factor = g.op("Unsqueeze", [g.op("Gather", [weight, row], {"axis": 0}), g.integers(1)])
            term = g.op("Mul", [rows, factor])
            total = term if total is None else g.op("Add", [total, term])
    assert total is not None
    return total


def _block(block: Parts, tower: Tower, stream: Stream) -> Stream:
    """Residual -> + attention(norm1) -> + mlp(norm2)."""
    layers, vision, hidden, inner = tower.layers, tower.vision, tower.vision.hidden_size, tower.vision.intermediate_size
    stream, normed = layers.layer_norm(block, stream, "norm1", hidden)
    with block.module("attn") as attn:
        qkv = layers.linear(attn, normed, tower.linear("qkv", 3 * hidden, hidden))
        attended = layers.full_attention(attn, qkv, tower.rotary, vision.num_heads)
        stream = layers.add_linear(attn, stream, attended, tower.linear("proj", hidden, hidden))
    stream, normed = layers.layer_norm(block, stream, "norm2", hidden)
    activation: Activation = "gelu_tanh" if vision.hidden_act == "gelu_pytorch_tanh" else "gelu"
    with block.module("mlp") as mlp:
        x = layers.linear(mlp, normed, tower.linear("linear_fc1", inner, hidden), activation)
        return layers.add_linear(mlp, stream, x, tower.linear("linear_fc2", hidden, inner))


def _merger(parts: Parts, path: str, stream: Stream, tower: Tower, *, merge_before_norm: bool) -> Value:
    """Join the patches of each merged token and project to the decoder's width: [N, hidden] to [N / 4, D].

    The last merger normalizes patches, those of DeepStack normalize merged tokens. Its GELU is the exact one,
    whatever the configuration says of the blocks.
    """
    g, layers, vision = parts.graph, tower.layers, tower.vision
    merged = vision.hidden_size * vision.spatial_merge_size**2
    with parts.module(path) as module:
        if merge_before_norm:
            joined = g.op("Reshape", [stream.sum(g), g.integers(-1, merged)])
            _, x = layers.layer_norm(module, Stream(joined), "norm", merged)
        else:
            _, x = layers.layer_norm(module, stream, "norm", vision.hidden_size)
            x = g.op("Reshape", [x, g.integers(-1, merged)])
        x = layers.linear(module, x, tower.linear("linear_fc1", merged, merged), "gelu")
        return layers.linear(module, x, tower.linear("linear_fc2", vision.out_hidden_size, merged))
