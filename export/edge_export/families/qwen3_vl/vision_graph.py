"""The vision tower as a graph of segments: docs/bundle.md gives its inputs and outputs, and how to run it.

Layers and names follow transformers, models/qwen3_vl/modeling_qwen3_vl.py (Qwen3VLVisionModel). The tower is cut where
a block's attention begins, and what crosses a cut, the residual stream and q, k and v, is an output of one segment and
an input of the next. A run does one segment, for any rows: only attention looks at all N patches.

    segment 0          patches     -> embedding, norm1 and qkv of block 0                         -> stream.0, qkv.0
    segment i + 1      stream, qkv -> rest of block i, DeepStack tap, norm1 and qkv of block i + 1 -> stream.{i+1}, ...
    segment depth      stream, qkv -> rest of the last block, merger                              -> image_embeds

N is the patches of one frame in merge order, R the rows of a run; R / 4 stands for R / spatial_merge_size^2. Which
operators compute it is up to the flavour (`layers.Layers`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from edge_export.families.qwen3_vl.layers import Activation, Layers, Linear, Parts, Rotary, Stream
from edge_export.graph import GraphBuilder, Value
from edge_export.weight_writer import WeightWriter
from edge_runtime.families.qwen3_vl.config import VisionArchitecture, vision_segments
from edge_runtime.model.manifest import TensorFormat

NUM_CORNERS = 4
"""Rows of the position table between which a patch's position is interpolated."""


@dataclass(frozen=True, slots=True)
class Tower:
    """What every part of the tower needs."""

    layers: Layers
    vision: VisionArchitecture
    weights: TensorFormat
    rotary: Rotary
    query_rows: Value
    """int64 [2]: the rows of a run are the patches from the first number up to, not with, the second."""

    def linear(self, path: str, *shape: int) -> Linear:
        """A linear layer; all of the tower's have a bias."""
        return Linear(path, shape, self.weights, bias=True)


def build_vision(
    vision: VisionArchitecture, weights: TensorFormat, writer: WeightWriter, layers: Layers
) -> GraphBuilder:
    """Build the graph, writing its weights on the way."""
    g = GraphBuilder("vision")
    segment = g.input("segment", np.int64, [])
    pixel_values = g.input("pixel_values", np.float32, ["P", vision.patch_dim])
    pos_index = g.input("pos_index", np.int64, [NUM_CORNERS, "P"])
    pos_weight = g.input("pos_weight", np.float32, [NUM_CORNERS, "P"])
    rotary = Rotary(*(g.input(name, np.float32, ["N", vision.head_dim // 2]) for name in ("rope_cos", "rope_sin")))
    stream = Stream(g.input("stream", np.float32, ["R", vision.hidden_size]))
    qkv = g.input("qkv", np.float32, ["N", 3 * vision.hidden_size])
    tower = Tower(layers, vision, weights, rotary, g.input("query_rows", np.int64, [2]))

    def embed(parts: Parts) -> list[Value]:
        # The checkpoint's convolution has stride = kernel = one patch: a linear layer on flattened patches.
        shape = (vision.in_channels, vision.temporal_patch_size, vision.patch_size, vision.patch_size)
        patches = layers.linear(parts, pixel_values, tower.linear("patch_embed.proj", vision.hidden_size, *shape))
        return _begin_block(parts, tower, 0, Stream(patches, _position_embedding(parts, pos_index, pos_weight, vision)))

    def block(index: int, parts: Parts) -> list[Value]:
        with parts.module(f"blocks.{index}") as module:
            after = _end_block(module, tower, stream, qkv)
        taps: list[Value] = []
        if index in vision.deepstack_layers:
            after = Stream(after.sum(parts.graph))
            path = f"deepstack_merger_list.{vision.deepstack_layers.index(index)}"
            taps = [_merger(parts, path, after, tower, merge_before_norm=True)]
        if index + 1 == vision.depth:
            return [_merger(parts, "merger", after, tower, merge_before_norm=False), *taps]
        return [*_begin_block(parts, tower, index + 1, after), *taps]

    for index, outputs in enumerate(vision_segments(vision)):
        is_asked = g.op("Equal", [segment, g.constant(np.array(index, dtype=np.int64))])
        build = embed if index == 0 else partial(block, index - 1)

        def body(inner: GraphBuilder, build: Callable[[Parts], list[Value]] = build) -> list[Value]:
            return build(Parts(inner, writer, "model.visual."))

        values = g.when(is_asked, f"segment.{index}", body, list(outputs.values()))
        for value, (name, width) in zip(values, outputs.items(), strict=True):
            g.output(value, name, np.float32, [f"rows of {name}", width])
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


def _begin_block(parts: Parts, tower: Tower, index: int, stream: Stream) -> list[Value]:
    """Up to where attention begins: the stream, and q, k and v of its norm1."""
    layers, hidden = tower.layers, tower.vision.hidden_size
    with parts.module(f"blocks.{index}") as block:
        stream, normed = layers.layer_norm(block, stream, "norm1", hidden)
        with block.module("attn") as attn:
            return [stream.sum(parts.graph), layers.linear(attn, normed, tower.linear("qkv", 3 * hidden, hidden))]


def _end_block(block: Parts, tower: Tower, stream: Stream, qkv: Value) -> Stream:
    """Residual -> + attention -> + mlp(norm2)."""
    layers, vision, hidden, inner = tower.layers, tower.vision, tower.vision.hidden_size, tower.vision.intermediate_size
    with block.module("attn") as attn:
        attended = layers.full_attention(attn, qkv, tower.rotary, tower.query_rows, vision.num_heads)
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
