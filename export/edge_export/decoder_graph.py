"""The decoder as a graph: docs/bundle.md gives its inputs and outputs.

Layers and names follow transformers, models/qwen3_vl/modeling_qwen3_vl.py (Qwen3VLTextModel). All values are
[T, ...], the tokens of a run. Which operators compute it, and how the cache is held, is up to the flavour
(`layers.Layers`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edge_export.graph import GraphBuilder, Value
from edge_export.layers import CachedAttention, Layers, Linear, Parts, Rotary, Stream
from edge_export.weight_writer import StoredMatrix, WeightWriter
from edge_runtime.model.manifest import QuantizationScheme, TensorFormat, TextArchitecture

EMBEDDING_NAME = "model.language_model.embed_tokens.weight"
HEAD_NAME = "lm_head.weight"


@dataclass(frozen=True, slots=True)
class Model:
    """What every layer of the decoder needs."""

    layers: Layers
    text: TextArchitecture
    weights: TensorFormat
    attention: CachedAttention


def build_decoder(
    text: TextArchitecture, num_taps: int, scheme: QuantizationScheme, writer: WeightWriter, layers: Layers
) -> tuple[GraphBuilder, StoredMatrix]:
    """Build the graph, writing its weights on the way; also returns where the LM head was stored."""
    g = GraphBuilder("decoder")
    stream = Stream(g.input("inputs_embeds", np.float32, ["T", text.hidden_size]))
    taps = _deepstack_input(g, text, num_taps)
    rotary = Rotary(*(g.input(name, np.float32, ["T", text.head_dim // 2]) for name in ("rope_cos", "rope_sin")))
    model = Model(layers, text, scheme.decoder_linear, layers.cached_attention(g, text, rotary))
    logits_rows = g.input("logits_rows", np.int64, ["R"])

    parts = Parts(g, writer, "model.language_model.")
    for i in range(text.num_layers):
        with parts.module(f"layers.{i}") as layer:
            stream = _decoder_layer(layer, i, model, stream)
            if i < num_taps:
                stream = stream.plus(g, taps[i])

    stream = stream.rows(g, logits_rows)  # [R, D]: the head runs on the rows asked for
    _, x = layers.rms_norm(parts, stream, "norm", text.hidden_size, text.rms_norm_eps)
    name = EMBEDDING_NAME if text.tie_word_embeddings else HEAD_NAME
    head = Linear("lm_head", (text.vocab_size, text.hidden_size), scheme.lm_head)
    logits, stored_head = layers.head(g, writer, x, name, head)
    g.output(logits, "logits", np.float32, ["R", text.vocab_size])
    return g, stored_head


def _deepstack_input(g: GraphBuilder, text: TextArchitecture, num_taps: int) -> list[Value]:
    """One value [T, D] per tap; no input at all where the model has none."""
    if num_taps == 0:
        return []
    stacked = g.input("deepstack", np.float32, [num_taps, "T", text.hidden_size])
    with g.scope("deepstack"):
        return [
            g.op("Gather", [stacked, g.constant(np.array(i, dtype=np.int64))], {"axis": 0}) for i in range(num_taps)
        ]


def _decoder_layer(layer: Parts, i: int, model: Model, stream: Stream) -> Stream:
    """Residual -> + attention(norm) -> + mlp(norm)."""
    layers, text, weights = model.layers, model.text, model.weights
    hidden, inner, eps = text.hidden_size, text.intermediate_size, text.rms_norm_eps
    stream, normed = layers.rms_norm(layer, stream, "input_layernorm", hidden, eps)
    with layer.module("self_attn") as attn:
        attended = model.attention(attn, i, normed, weights)
        o_proj = Linear("o_proj", (hidden, text.num_attention_heads * text.head_dim), weights)
        stream = layers.add_linear(attn, stream, attended, o_proj)
    stream, normed = layers.rms_norm(layer, stream, "post_attention_layernorm", hidden, eps)
    with layer.module("mlp") as mlp:
        gate, up = (Linear(path, (inner, hidden), weights) for path in ("gate_proj", "up_proj"))
        gated = layers.gated(mlp, normed, gate, up)
        return layers.add_linear(mlp, stream, gated, Linear("down_proj", (hidden, inner), weights))
