"""What both graphs are made of: layers as functions of values. Knows weights by their names, and no model.

A flavour of graphs is an implementation of `Layers` (`layers_portable.py`, `layers_edge.py`); the models are described
once, in decoder_graph.py and vision_graph.py. Names of weights are those of the checkpoint.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

from edge_export.graph import GraphBuilder, Value
from edge_export.weight_writer import StoredMatrix, WeightWriter
from edge_runtime.families.qwen3_vl.config import TextArchitecture
from edge_runtime.model.manifest import TensorFormat

LAYER_NORM_EPS = 1e-6
"""Of every LayerNorm in Qwen3-VL's vision tower; its configuration has no field for it."""

Activation = Literal["none", "gelu", "gelu_tanh"]


@dataclass(frozen=True, slots=True)
class Parts:
    """A graph, the weights beside it, and where in the checkpoint we are."""

    graph: GraphBuilder
    writer: WeightWriter
    prefix: str
    """Path of the current module in the checkpoint, with a dot at its end."""

    @contextmanager
    def module(self, path: str) -> Iterator[Parts]:
        """The submodule `path`: a scope of the graph and a prefix of weight names."""
        with self.graph.scope(path):
            yield Parts(self.graph, self.writer, f"{self.prefix}{path}.")

    def vector(self, name: str, *shape: int) -> Value:
        """The float32 tensor `name` of the current module."""
        full = self.prefix + name
        return self.graph.weight(full, self.writer.vector(full, shape))


@dataclass(frozen=True, slots=True)
class Stream:
    """The residual stream: the sum of `x` and, where it is not None, of `pending`, which the next norm adds."""

    x: Value
    pending: Value | None = None

    def plus(self, g: GraphBuilder, value: Value) -> Stream:
        """The stream with `value` added."""
        return Stream(self.sum(g), value)

    def sum(self, g: GraphBuilder) -> Value:
        """The stream as one value."""
        return self.x if self.pending is None else g.op("Add", [self.x, self.pending])

    def rows(self, g: GraphBuilder, index: Value) -> Stream:
        """Only the rows `index` [R]."""
        pending = None if self.pending is None else g.op("Gather", [self.pending, index], {"axis": 0})
        return Stream(g.op("Gather", [self.x, index], {"axis": 0}), pending)


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear layer: submodule `path` with a weight [out, in] (later dimensions are flattened) stored in `format`."""

    path: str
    shape: tuple[int, ...]
    format: TensorFormat
    bias: bool = False


@dataclass(frozen=True, slots=True)
class Rotary:
    """Tables of just the tokens, or patches, of a run."""

    cos: Value
    """[T, head_dim / 2]"""
    sin: Value


class CachedAttention(Protocol):
    """Attention of every decoder layer over its cache; holds the graph inputs that say where the tokens stand."""

    def __call__(self, attn: Parts, layer: int, x: Value, weights: TensorFormat) -> Value:
        """Projections, head norms, rotary and attention of x [T, D] in module `self_attn`; [T, heads * head_dim]."""


class Layers(ABC):
    """One flavour: the operators that layers are made of."""

    def rms_norm(self, parts: Parts, stream: Stream, path: str, size: int, eps: float) -> tuple[Stream, Value]:
        """The stream with nothing pending, and its RMSNorm [T, size]."""
        with parts.module(path) as module:
            return self.norm(module.graph, stream, [module.vector("weight", size)], eps)

    def layer_norm(self, parts: Parts, stream: Stream, path: str, size: int) -> tuple[Stream, Value]:
        """The stream with nothing pending, and its LayerNorm [T, size]."""
        with parts.module(path) as module:
            weights = [module.vector("weight", size), module.vector("bias", size)]
            return self.norm(module.graph, stream, weights, LAYER_NORM_EPS)

    @abstractmethod
    def norm(self, g: GraphBuilder, stream: Stream, weights: list[Value], eps: float) -> tuple[Stream, Value]:
        """The stream with nothing pending, and its norm [T, size]: RMSNorm by a weight, LayerNorm by one and a bias."""

    @abstractmethod
    def linear(self, parts: Parts, x: Value, layer: Linear, activation: Activation = "none") -> Value:
        """Activation of x [T, in] times the layer's weight, transposed, plus its bias: [T, out]."""

    @abstractmethod
    def add_linear(self, parts: Parts, stream: Stream, x: Value, layer: Linear) -> Stream:
        """The stream, with nothing pending, plus `linear` of x."""

    @abstractmethod
    def gated(self, parts: Parts, x: Value, gate: Linear, up: Linear) -> Value:
        """silu(gate(x)) * up(x)."""

    @abstractmethod
    def head(
        self, g: GraphBuilder, writer: WeightWriter, x: Value, name: str, head: Linear
    ) -> tuple[Value, StoredMatrix]:
        """Logits [R, vocab] of x [R, D], and where the head's weight `name` is stored."""

    @abstractmethod
    def cached_attention(self, g: GraphBuilder, text: TextArchitecture, rotary: Rotary) -> CachedAttention:
        """Attention over the KV cache; adds the graph inputs it needs."""

    @abstractmethod
    def full_attention(self, attn: Parts, qkv: Value, rotary: Rotary, query_rows: Value, num_heads: int) -> Value:
        """Attention of patches query_rows[0] up to query_rows[1] over all N of qkv [N, 3 * hidden]: [R, hidden].

        q and k are rotated first.
        """
