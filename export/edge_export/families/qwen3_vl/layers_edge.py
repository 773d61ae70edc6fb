"""The layers of flavour `edge`: our own operators (docs/kernels.md), weights packed as they read them.

Matrices that share their input are one: Q, K and V side by side, gate and up with groups of channels in turn.
"""

from __future__ import annotations

import numpy as np

from edge_export.families.qwen3_vl.layers import Activation, CachedAttention, Layers, Linear, Parts, Rotary, Stream
from edge_export.graph import EDGE, Attribute, GraphBuilder, Value
from edge_export.packed_weights import write_gate_up, write_stacked
from edge_export.weight_writer import BITS, StoredMatrix, WeightWriter
from edge_runtime.devices.profile import KVDtype
from edge_runtime.families.qwen3_vl.config import TextArchitecture
from edge_runtime.model.manifest import TensorFormat

CACHE_DTYPES = {"fp32": np.float32, "fp16": np.float16, "int8": np.int8}


class EdgeLayers(Layers):
    """`Layers` of flavour `edge`; the decoder's keys and values are stored as `kv_dtype`."""

    def __init__(self, kv_dtype: KVDtype = "fp32") -> None:
        self._kv_dtype = kv_dtype

    def norm(self, g: GraphBuilder, stream: Stream, weights: list[Value], eps: float) -> tuple[Stream, Value]:
        """The stream with nothing pending, and its norm [T, size]: RMSNorm by a weight, LayerNorm by one and a bias."""
        op_type = "RMSNorm" if len(weights) == 1 else "LayerNorm"
        if stream.pending is None:
            return stream, g.op(op_type, [stream.x, *weights], {"epsilon": eps}, domain=EDGE)
        inputs = [stream.x, *weights, stream.pending]
        normed, total = g.multi_op(op_type, inputs, 2, {"epsilon": eps}, domain=EDGE)
        return Stream(total), normed

    def linear(self, parts: Parts, x: Value, layer: Linear, activation: Activation = "none") -> Value:
        """Activation of x [T, in] times the layer's weight, transposed, plus its bias: [T, out]."""
        return _linear_layer(parts, x, layer, activation, None)

    def add_linear(self, parts: Parts, stream: Stream, x: Value, layer: Linear) -> Stream:
        """The stream, with nothing pending, plus `linear` of x."""
        return Stream(_linear_layer(parts, x, layer, "none", stream.sum(parts.graph)))

    def gated(self, parts: Parts, x: Value, gate: Linear, up: Linear) -> Value:
        """silu(gate(x)) * up(x)."""
        assert gate.shape == up.shape
        assert gate.format == up.format
        names = f"{parts.prefix}{gate.path}.weight", f"{parts.prefix}{up.path}.weight"
        stored = write_gate_up(parts.writer, names, gate.shape, gate.format)
        with parts.graph.scope(f"{gate.path}+{up.path}"):
            return _linear(parts.graph, [x], f"{parts.prefix}gate_up_proj.weight", stored, "silu_mul")

    def head(
        self, g: GraphBuilder, writer: WeightWriter, x: Value, name: str, head: Linear
    ) -> tuple[Value, StoredMatrix]:
        """Logits [R, vocab] of x [R, D], and where the head's weight `name` is stored."""
        stored = write_stacked(writer, [(name, head.shape)], head.format)
        with g.scope(head.path):
            return _linear(g, [x], name, stored, "none"), stored

    def cached_attention(self, g: GraphBuilder, text: TextArchitecture, rotary: Rotary) -> CachedAttention:
        """Attention over the KV cache; adds the graph inputs it needs."""
        return PagedAttention(g, text, rotary, self._kv_dtype)

    def full_attention(self, attn: Parts, qkv: Value, rotary: Rotary, query_rows: Value, num_heads: int) -> Value:
        """Attention of patches query_rows[0] up to query_rows[1] over all N of qkv [N, 3 * hidden]: [R, hidden].

        q and k are rotated first.
        """
        inputs = [qkv, rotary.cos, rotary.sin, query_rows]
        return attn.graph.op("VisionAttention", inputs, {"num_heads": num_heads}, domain=EDGE)


class PagedAttention:
    """`CachedAttention` of a ragged batch of chats over pools of blocks, which the operator writes into.

    x -> q, k and v in one Linear -> Attention: head norms, rotary, append, attend
    """

    def __init__(self, g: GraphBuilder, text: TextArchitecture, rotary: Rotary, kv_dtype: KVDtype) -> None:
        self._text = text
        self._rotary = rotary
        self._kv_dtype = kv_dtype
        table = g.input("block_table", np.int32, ["S", "max_blocks"])
        self._places = [table, *(g.input(name, np.int32, ["T"]) for name in ("token_row", "token_slot", "token_keys"))]

    def __call__(self, attn: Parts, layer: int, x: Value, weights: TensorFormat) -> Value:
        """Projections, head norms, rotary and attention of x [T, D] in module `self_attn`; [T, heads * head_dim]."""
        text, g = self._text, attn.graph
        q_size, kv_size = text.num_attention_heads * text.head_dim, text.num_kv_heads * text.head_dim
        sizes = {"q_proj": q_size, "k_proj": kv_size, "v_proj": kv_size}
        matrices = [(f"{attn.prefix}{path}.weight", (size, text.hidden_size)) for path, size in sizes.items()]
        stored = write_stacked(attn.writer, matrices, weights)
        with g.scope("qkv_proj"):
            qkv = _linear(g, [x], f"{attn.prefix}qkv_proj.weight", stored, "none")
        norms = []
        for path in ("q_norm", "k_norm"):
            with attn.module(path) as module:
                norms.append(module.vector("weight", text.head_dim))
        pools, scales = self._pools(g, layer)
        inputs = [qkv, *norms, self._rotary.cos, self._rotary.sin, *pools, *self._places, *scales]
        attributes = {
            "num_heads": text.num_attention_heads,
            "num_kv_heads": text.num_kv_heads,
            "epsilon": text.rms_norm_eps,
        }
        return g.op("Attention", inputs, attributes, domain=EDGE)

    def _pools(self, g: GraphBuilder, layer: int) -> tuple[list[Value], list[Value]]:
        """Graph inputs of layer `layer`: keys and values, and their scales for int8."""
        shape: list[int | str] = ["num_blocks", self._text.num_kv_heads, "block_size", self._text.head_dim]
        dtype = CACHE_DTYPES[self._kv_dtype]
        pools = [g.input(f"{kind}_cache.{layer}", dtype, shape) for kind in ("key", "value")]
        if self._kv_dtype != "int8":
            return pools, []
        return pools, [g.input(f"{kind}_scale.{layer}", np.float32, shape[:-1]) for kind in ("key", "value")]


def _linear_layer(parts: Parts, x: Value, layer: Linear, activation: Activation, residual: Value | None) -> Value:
    with parts.module(layer.path) as module:
        name = f"{module.prefix}weight"
        stored = write_stacked(module.writer, [(name, layer.shape)], layer.format)
        bias = module.vector("bias", layer.shape[0]) if layer.bias else None
        return _linear(module.graph, [x, bias, residual], name, stored, activation)


def _linear(g: GraphBuilder, inputs: list[Value | None], name: str, weight: StoredMatrix, activation: str) -> Value:
    """`edge.Linear` of `inputs`: x [T, in], and where given bias [out] and residual [T, out]."""
    x, *others = inputs
    assert weight.scales is not None
    assert weight.format.block_size is not None
    values = g.weight(f"{name}.{weight.format.weights}", weight.values)
    attributes: dict[str, Attribute] = {
        "bits": BITS[weight.format.weights],
        "block_size": weight.format.block_size,
        "out_features": weight.rows,
        "activation": activation,
    }
    while others and others[-1] is None:
        others.pop()
    return g.op("Linear", [x, values, g.weight(f"{name}.scales", weight.scales), *others], attributes, domain=EDGE)
