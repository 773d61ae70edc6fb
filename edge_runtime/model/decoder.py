"""The portable decoder graph behind one class: embeddings in, logits out, keys and values kept in a lease.

Knows nothing of token ids, prompts or images: its inputs are the rows docs/bundle.md names.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import BundleError, InternalError
from edge_runtime.model.cancellation import CancelToken
from edge_runtime.model.kv_cache import ContiguousKVCache, ContiguousLease
from edge_runtime.model.manifest import Architecture
from edge_runtime.model.session import Array, Binding, Graph

DecoderLease = ContiguousLease[Binding]


@dataclass(frozen=True, slots=True, eq=False)
class DecoderInputs:
    """The rows of one run over T tokens."""

    inputs_embeds: NDArray[np.float32]
    """[T, D]"""
    deepstack: NDArray[np.float32]
    """[L, T, D], zeros off the image; L may be 0."""
    rope_cos: NDArray[np.float32]
    """[T, head_dim / 2]"""
    rope_sin: NDArray[np.float32]
    """[T, head_dim / 2]"""


class Decoder:
    """Runs the decoder graph for one chat at a time; hands out the KV cache that its runs write into."""

    def __init__(self, graph: Graph, architecture: Architecture, max_cache_tokens: int) -> None:
        """Raises `BundleError` if the graph does not have the inputs of docs/bundle.md."""
        self._graph = graph
        self._text = architecture.text
        self._num_taps = len(architecture.vision.deepstack_layers)
        self.kv_cache: ContiguousKVCache[Binding] = ContiguousKVCache(max_cache_tokens, self._allocate)
        expected = {"inputs_embeds", "rope_cos", "rope_sin", "seqlens_k", "total_sequence_length", "logits_rows"}
        expected |= {name for name, _ in self._cache_names()} | ({"deepstack"} if self._num_taps else set())
        if set(graph.inputs) != expected:
            odd = sorted(set(graph.inputs) ^ expected)
            raise BundleError(
                f"decoder.onnx does not have the inputs of this release (differs in {odd}); export it again"
            )

    def forward(
        self, rows: DecoderInputs, lease: DecoderLease, want_logits: bool, cancel: CancelToken
    ) -> NDArray[np.float32] | None:
        """Append the T tokens of `rows` to `lease`; the logits [V] after the last one, if wanted.

        Raises `Cancelled`; the lease then still has its old length.
        """
        num_tokens = len(rows.inputs_embeds)
        total = lease.length + num_tokens
        if total > lease.capacity:
            raise InternalError(f"{total} tokens in a KV lease of {lease.capacity}")
        logits_rows = np.array([num_tokens - 1] if want_logits else [], dtype=np.int64)
        logits = np.empty((len(logits_rows), self._text.vocab_size), dtype=np.float32)
        inputs: dict[str, Array] = {
            "inputs_embeds": rows.inputs_embeds,
            "rope_cos": rows.rope_cos,
            "rope_sin": rows.rope_sin,
            "seqlens_k": np.array([total - 1], dtype=np.int32),
            "total_sequence_length": np.array(total, dtype=np.int32),
            "logits_rows": logits_rows,
        }
        if self._num_taps:
            inputs["deepstack"] = rows.deepstack
        lease.buffers.run(inputs, {"logits": logits}, cancel)
        lease.extend(num_tokens)
        return logits[0] if want_logits else None

    def _allocate(self, num_tokens: int) -> Binding:
        """Keys and values of one chat: anonymous pages, which take memory only once a token is written to them."""
        text = self._text
        names = self._cache_names()
        shape = (len(names), 1, text.num_kv_heads, num_tokens, text.head_dim)
        pages = mmap.mmap(-1, int(np.prod(shape)) * np.dtype(np.float32).itemsize)
        buffers = np.frombuffer(pages, dtype=np.float32).reshape(shape)
        return self._graph.bind([(past, present, buffers[i]) for i, (past, present) in enumerate(names)])

    def _cache_names(self) -> list[tuple[str, str]]:
        """Graph names (past, present) of every cache buffer."""
        layers = range(self._text.num_layers)
        return [(f"past_{kind}.{i}", f"present_{kind}.{i}") for i in layers for kind in ("key", "value")]
