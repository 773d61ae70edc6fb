"""The decoder as a graph: docs/bundle.md gives its inputs and outputs.

Layers and names follow transformers, models/qwen3_vl/modeling_qwen3_vl.py (Qwen3VLTextModel). All values are
[T, ...], the tokens of a run. Which operators compute it, and how the cache is held, is up to the flavour
(`layers.Layers`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edge_export.checkpoint.layouts import EMBEDDING_NAME, HEAD_NAME
from edge_export.families.qwen3_vl.layers import CachedAttention, Layers, Linear, Parts, Rotary, Stream
from edge_export.graph import GraphBuilder, Value
from edge_export.weight_writer import StoredMatrix, WeightWriter
from edge_runtime.families.qwen3_vl.config import TextArchitecture
from edge_runtime.model.manifest import QuantizationScheme, TensorFormat


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
            last = i == text.num_layers - 1
            stream = _decoder_layer(layer, i, model, stream, logits_rows if last else None)
            if i < num_taps:
                stream = stream.plus(g, g.op("Gather", [taps[i], logits_rows], {"axis": 0}) if last else taps[i])

    _, x = layers.rms_norm(parts, stream, "norm", text.hidden_size, text.rms_norm_eps)
    name = EMBEDDING_NAME if text.tie_word_embeddings else HEAD_NAME
    head = Linear("lm_head", (text.vocab_size, text.hidden_size), scheme.lm_head)
    logits, stored_head = layers.head(g, writer, x, name, head)
    g.output(logits, "logits", np.float32, ["R", text.vocab_size])
    if text.tie_word_embeddings and (scheme.lm_head.weights, scheme.embedding.weights) == ("int4", "int8"):
        # The embedding table is a finer copy of the head: the runtime scores the likeliest tokens with it again.
        g.output(x, "hidden", np.float32, ["R", text.hidden_size])
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


def _decoder_layer(layer: Parts, i: int, model: Model, stream: Stream, rows: Value | None) -> Stream:
    """Residual -> + attention(norm) -> + mlp(norm).

    With `rows` [R], as in the last layer, only these go on behind attention: nobody reads the others.
    """
    layers, text, weights = model.layers, model.text, model.weights
    hidden, inner, eps = text.hidden_size, text.intermediate_size, text.rms_norm_eps
    stream, normed = layers.rms_norm(layer, stream, "input_layernorm", hidden, eps)
    with layer.module("self_attn") as attn:
        attended = model.attention(attn, i, normed, weights)
        if rows is not None:
            attended, stream = attn.graph.op("Gather", [attended, rows], {"axis": 0}), stream.rows(attn.graph, rows)
        o_proj = Linear("o_proj", (hidden, text.num_attention_heads * text.head_dim), weights)
        stream = layers.add_linear(attn, stream, attended, o_proj)
    stream, normed = layers.rms_norm(layer, stream, "post_attention_layernorm", hidden, eps)
    with layer.module("mlp") as mlp:
        gate, up = (Linear(path, (inner, hidden), weights) for path in ("gate_proj", "up_proj"))
        gated = layers.gated(mlp, normed, gate, up)
        return layers.add_linear(mlp, stream, gated, Linear("down_proj", (hidden, inner), weights))
