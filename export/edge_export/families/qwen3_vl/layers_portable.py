"""The layers of flavour `portable`: operators of ONNX and of ONNX Runtime (`com.microsoft`), on any execution provider.

A batch axis of 1 appears only where an operator asks for one.
"""

from __future__ import annotations

import numpy as np

from edge_export.families.qwen3_vl.layers import Activation, CachedAttention, Layers, Linear, Parts, Rotary, Stream
from edge_export.graph import MICROSOFT, GraphBuilder, Value
from edge_export.weight_writer import BITS, StoredMatrix, WeightWriter
from edge_runtime.families.qwen3_vl.config import TextArchitecture
from edge_runtime.model.manifest import TensorFormat

INT8_ACTIVATIONS = 4
"""`MatMulNBits.accuracy_level`: activations are quantized to int8 per row and block. The fastest level on CPUs."""


class PortableLayers(Layers):
    """`Layers` of flavour `portable`."""

    def norm(self, g: GraphBuilder, stream: Stream, weights: list[Value], eps: float) -> tuple[Stream, Value]:
        """The stream with nothing pending, and its norm [T, size]: RMSNorm by a weight, LayerNorm by one and a bias."""
        op_type = "SimplifiedLayerNormalization" if len(weights) == 1 else "LayerNormalization"
        if stream.pending is None:
            return stream, g.op(op_type, [stream.x, *weights], {"axis": -1, "epsilon": eps})
        inputs = [stream.x, stream.pending, *weights]
        normed, _, _, total = g.multi_op(f"Skip{op_type}", inputs, 4, {"epsilon": eps}, domain=MICROSOFT)
        return Stream(total), normed

    def linear(self, parts: Parts, x: Value, layer: Linear, activation: Activation = "none") -> Value:
        """Activation of x [T, in] times the layer's weight, transposed, plus its bias: [T, out]."""
        with parts.module(layer.path) as module:
            name = f"{module.prefix}weight"
            stored = module.writer.matrix(name, layer.shape, layer.format)
            bias = module.vector("bias", layer.shape[0]) if layer.bias else None
            y = matmul(module.graph, x, name, stored, bias)
        if activation == "none":
            return y
        return parts.graph.op("Gelu", [y], {"approximate": "tanh" if activation == "gelu_tanh" else "none"})

    def add_linear(self, parts: Parts, stream: Stream, x: Value, layer: Linear) -> Stream:
        """The stream, with nothing pending, plus `linear` of x."""
        return stream.plus(parts.graph, self.linear(parts, x, layer))

    def gated(self, parts: Parts, x: Value, gate: Linear, up: Linear) -> Value:
        """silu(gate(x)) * up(x)."""
        g = parts.graph
        silu = g.op("QuickGelu", [self.linear(parts, x, gate)], {"alpha": 1.0}, domain=MICROSOFT)  # y * sigmoid(y)
        return g.op("Mul", [silu, self.linear(parts, x, up)])

    def head(
        self, g: GraphBuilder, writer: WeightWriter, x: Value, name: str, head: Linear
    ) -> tuple[Value, StoredMatrix]:
        """Logits [R, vocab] of x [R, D], and where the head's weight `name` is stored."""
        stored = writer.matrix(name, head.shape, head.format)
        with g.scope(head.path):
            return matmul(g, x, name, stored, None), stored

    def cached_attention(self, g: GraphBuilder, text: TextArchitecture, rotary: Rotary) -> CachedAttention:
        """Attention over the KV cache; adds the graph inputs it needs."""
        return GroupedQueryAttention(self, g, text, rotary)

    def full_attention(self, attn: Parts, qkv: Value, rotary: Rotary, query_rows: Value, num_heads: int) -> Value:
        """Attention of patches query_rows[0] up to query_rows[1] over all N of qkv [N, 3 * hidden]: [R, hidden].

        qkv -+-> q -> rows -> rotary --+
             +-> k ---------> rotary --+-> MultiHeadAttention     in tiles: no R x N matrix
             +-> v --------------------+
        """
        g = attn.graph
        begin, end = g.multi_op("Split", [query_rows], 2, {"num_outputs": 2})

        def rows(x: Value) -> Value:
            return g.op("Slice", [x, begin, end, g.integers(0)])

        q, k, v = g.multi_op("Split", [qkv], 3, {"axis": -1, "num_outputs": 3})
        q, k, v = (g.op("Unsqueeze", [x, g.integers(0)]) for x in (rows(q), k, v))  # [1, R or N, hidden]
        q, k = _rotate(g, q, Rotary(rows(rotary.cos), rows(rotary.sin))), _rotate(g, k, rotary)
        attended = g.op("MultiHeadAttention", [q, k, v], {"num_heads": num_heads}, domain=MICROSOFT)
        return g.op("Squeeze", [attended, g.integers(0)])


class GroupedQueryAttention:
    """`CachedAttention` of one chat over one contiguous buffer per layer.

    x -> q_proj -> q_norm -> rotary --+
    x -> k_proj -> k_norm -> rotary --+-> GroupQueryAttention
    x -> v_proj ----------------------+     past_* -> present_* (same memory)
    """

    def __init__(self, layers: PortableLayers, g: GraphBuilder, text: TextArchitecture, rotary: Rotary) -> None:
        self._layers = layers
        self._text = text
        self._rotary = rotary
        self._seqlens_k = g.input("seqlens_k", np.int32, [1])
        self._total_sequence_length = g.input("total_sequence_length", np.int32, [])

    def __call__(self, attn: Parts, layer: int, x: Value, weights: TensorFormat) -> Value:
        """Projections, head norms, rotary and attention of x [T, D] in module `self_attn`; [T, heads * head_dim]."""
        g, text = attn.graph, self._text
        q_size, kv_size = text.num_attention_heads * text.head_dim, text.num_kv_heads * text.head_dim
        sizes = {"q_proj": q_size, "k_proj": kv_size, "v_proj": kv_size}
        q, k, v = (
            self._layers.linear(attn, x, Linear(path, (size, text.hidden_size), weights))
            for path, size in sizes.items()
        )
        q = self._norm_and_rotate(attn, q, "q_norm", q_size)
        k = self._norm_and_rotate(attn, k, "k_norm", kv_size)
        v = g.op("Reshape", [v, g.integers(1, -1, kv_size)])

        cache_shape: list[int | str] = [1, text.num_kv_heads, "capacity", text.head_dim]
        past = [g.input(f"past_{kind}.{layer}", np.float32, cache_shape) for kind in ("key", "value")]
        attended, present_key, present_value = g.multi_op(
            "GroupQueryAttention",
            [q, k, v, *past, self._seqlens_k, self._total_sequence_length],
            3,
            {"num_heads": text.num_attention_heads, "kv_num_heads": text.num_kv_heads},
            domain=MICROSOFT,
        )
        g.output(present_key, f"present_key.{layer}", np.float32, cache_shape)
        g.output(present_value, f"present_value.{layer}", np.float32, cache_shape)
        return g.op("Reshape", [attended, g.integers(-1, q_size)])

    def _norm_and_rotate(self, attn: Parts, x: Value, norm: str, size: int) -> Value:
        """RMSNorm of every head on its own, then rotary; x [T, size] to [1, T, size]."""
        g, text = attn.graph, self._text
        heads = g.op("Reshape", [x, g.integers(-1, text.head_dim)])  # [T * heads, head_dim]
        with attn.module(norm) as module:
            weights = [module.vector("weight", text.head_dim)]
            _, heads = self._layers.norm(g, Stream(heads), weights, text.rms_norm_eps)
        return _rotate(g, g.op("Reshape", [heads, g.integers(1, -1, size)]), self._rotary)


def matmul(g: GraphBuilder, x: Value, name: str, weight: StoredMatrix, bias: Value | None) -> Value:
    """X [T, in] times a stored [out, in], transposed, plus bias [out]: MatMulNBits, or Gemm for fp32."""
    values = g.weight(name if weight.scales is None else f"{name}.{weight.format.weights}", weight.values)
    if weight.scales is None:
        return g.op("Gemm", [x, values] if bias is None else [x, values, bias], {"transB": 1})
    assert weight.format.block_size is not None
    inputs: list[Value | None] = [x, values, g.weight(f"{name}.scales", weight.scales)]
    if bias is not None:
        inputs += [None, None, bias]  # zero points and group index are left out: symmetric, in order
    attributes = {
        "K": weight.columns,
        "N": weight.rows,
        "bits": BITS[weight.format.weights],
        "block_size": weight.format.block_size,
        "accuracy_level": INT8_ACTIVATIONS,
    }
    return g.op("MatMulNBits", inputs, attributes, domain=MICROSOFT)


def _rotate(g: GraphBuilder, x: Value, rotary: Rotary) -> Value:
    """Rotate the heads of x [1, T, heads * head_dim], row t by row t of the tables.

    `RotaryEmbedding` looks tables up by position. Ours hold just the tokens of this run, so positions begin at 0.
    """
    return g.op("RotaryEmbedding", [x, g.integers(0), rotary.cos, rotary.sin], domain=MICROSOFT)
