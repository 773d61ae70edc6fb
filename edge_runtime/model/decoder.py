"""The decoder graph behind one interface: embeddings in, logits out, keys and values kept in leases.

`PortableDecoder` runs one chat at a time; the edge flavour's `RaggedDecoder` (ragged_decoder.py) runs all together.
Knows nothing of token ids, prompts or images: its inputs are the rows docs/bundle.md names.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import Cancelled, InternalError
from edge_runtime.families.qwen3_vl.config import Architecture, TextArchitecture
from edge_runtime.families.qwen3_vl.decoder import portable_decoder_contract
from edge_runtime.model.cancellation import CancelToken
from edge_runtime.model.contract import check_contract
from edge_runtime.model.graph import Array, Binding, Graph
from edge_runtime.model.kv_cache import ContiguousKVCache, ContiguousLease, KVCache, KVLease


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


@dataclass(frozen=True, slots=True, eq=False)
class DecoderStep:
    """One chat's part of a run."""

    inputs: DecoderInputs
    lease: KVLease
    """Where its T tokens are appended."""
    want_logits: bool
    cancel: CancelToken
    num_candidates: int = 0
    """How many of the likeliest tokens need refined logits, where the graph has them; some always get them."""


Refine = Callable[[NDArray[np.float32], NDArray[np.float32], int], None]
"""Improves logits [V] in place, given the final hidden state [D] that they came from, and `num_candidates`."""


class Decoder(Protocol):
    """A loaded decoder graph and the KV cache its runs write into."""

    @property
    def kv_cache(self) -> KVCache:
        """The cache that leases come from."""

    def forward(self, steps: Sequence[DecoderStep]) -> list[NDArray[np.float32] | None]:
        """Append the tokens of every step to its lease; per step the logits [V] after the last one.

        None where they are not wanted, and where the step was cancelled: its lease then has its old length.
        """


class PortableDecoder:
    """Runs a graph of flavour `portable`, chat after chat."""

    def __init__(
        self, graph: Graph, architecture: Architecture, max_cache_tokens: int, refine: Refine | None = None
    ) -> None:
        """`refine` is for graphs with the output `hidden`.

        Raises `BundleError` if the graph does not have the inputs and outputs of docs/bundle.md.
        """
        check_contract(graph, portable_decoder_contract(architecture, gives_hidden=refine is not None))
        self._graph = graph
        self._refine = refine
        self._text = architecture.text
        self._num_taps = len(architecture.vision.deepstack_layers)
        self._kv_cache: ContiguousKVCache[Binding] = ContiguousKVCache(max_cache_tokens, self._allocate)

    @property
    def kv_cache(self) -> ContiguousKVCache[Binding]:
        """The cache that leases come from."""
        return self._kv_cache

    def forward(self, steps: Sequence[DecoderStep]) -> list[NDArray[np.float32] | None]:
        """Append the tokens of every step to its lease; per step the logits [V] after the last one.

        None where they are not wanted, and where the step was cancelled: its lease then has its old length.
        """
        return [self._run(step) for step in steps]

    def _run(self, step: DecoderStep) -> NDArray[np.float32] | None:
        rows, lease = step.inputs, step.lease
        if not isinstance(lease, ContiguousLease):
            raise InternalError(f"a {type(lease).__name__} is not a lease of this decoder's cache")
        num_tokens = len(rows.inputs_embeds)
        total = lease.length + num_tokens
        if total > lease.capacity:
            raise InternalError(f"{total} tokens in a KV lease of {lease.capacity}")
        logits_rows = np.array([num_tokens - 1] if step.want_logits else [], dtype=np.int64)
        head = HeadOutputs(self._text, [step.num_candidates] * len(logits_rows), self._refine)
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
        try:
            lease.buffers.run(inputs, head.buffers, step.cancel)
        except Cancelled:
            return None
        lease.extend(num_tokens)
        return head.logits()[0] if step.want_logits else None

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


class HeadOutputs:
    """Where a run writes the logits of its R rows, and, if they are to be refined, what the LM head saw."""

    def __init__(self, text: TextArchitecture, num_candidates: Sequence[int], refine: Refine | None) -> None:
        """`num_candidates`: that of the step of each row."""
        self._refine = refine
        self._num_candidates = num_candidates
        num_rows = len(num_candidates)
        self.buffers: dict[str, Array] = {"logits": np.empty((num_rows, text.vocab_size), dtype=np.float32)}
        if refine is not None:
            self.buffers["hidden"] = np.empty((num_rows, text.hidden_size), dtype=np.float32)

    def logits(self) -> NDArray[np.float32]:
        """[R, V], once the run is over; to be asked for once."""
        logits = self.buffers["logits"]
        if self._refine is not None:
            for row, hidden, count in zip(logits, self.buffers["hidden"], self._num_candidates, strict=True):
                self._refine(row, hidden, count)
        return logits
