"""The decoder graph behind one interface: embeddings in, logits out, keys and values kept in leases.

`PortableDecoder` runs one chat at a time; the edge flavour's `RaggedDecoder` (ragged_decoder.py) runs all together.
Knows nothing of token ids, prompts or images: its inputs are the rows docs/bundle.md names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import Cancelled, InternalError
from edge_runtime.families.qwen3_vl.config import Architecture, TextArchitecture
from edge_runtime.families.qwen3_vl.decoder import portable_decoder_contract
from edge_runtime.model.cancellation import CancelToken
from edge_runtime.model.contiguous_kv_cache import ContiguousKVCache, ContiguousLease
from edge_runtime.model.contract import check_contract
from edge_runtime.model.graph import Array, Binding, Graph
from edge_runtime.model.kv_cache import KVCache, KVLease
from edge_runtime.model.kv_memory import KVMemory, bytes_per_token


@dataclass(frozen=True, slots=True, eq=False)
class DecoderStep:
    """One chat's part of a run: the rows of T tokens, and where they go."""

    inputs_embeds: NDArray[np.float32]
    """[T, D]"""
    deepstack: NDArray[np.float32]
    """[L, T, D], zeros off the image; L may be 0."""
    rope_cos: NDArray[np.float32]
    """[T, head_dim / 2]"""
    rope_sin: NDArray[np.float32]
    """[T, head_dim / 2]"""
    lease: KVLease
    """What the tokens are appended to."""
    num_logits: int
    """After how many of them, counted from the end, logits are wanted."""
    cancel: CancelToken


@dataclass(frozen=True, slots=True, eq=False)
class Logits:
    """What a run says after the last k tokens of a step."""

    rows: NDArray[np.float32]
    """[k, V]"""
    hidden: NDArray[np.float32] | None = None
    """[k, D] what the LM head saw, of a bundle whose likeliest tokens shall be scored again; else None."""


class KVBlocks(Protocol):
    """Keys and values, by where they lie in a lease."""

    def dump(self, lease: KVLease, start: int, num_tokens: int) -> bytes:
        """Those of so many tokens from number `start` on, all of one block, as they are stored."""

    def load(self, lease: KVLease, start: int, num_tokens: int, saved: bytes) -> None:
        """Write what `dump` gave to the same place of another lease. Raises `InternalError` for another length."""


class Decoder(KVBlocks, Protocol):
    """A loaded decoder graph and the KV cache its runs write into."""

    @property
    def kv_cache(self) -> KVCache:
        """The cache that leases come from."""

    @property
    def kv_bytes_per_token(self) -> int:
        """What a token takes there, over all layers."""

    def forward(self, steps: Sequence[DecoderStep]) -> list[Logits | None]:
        """Append the tokens of every step to its lease; per step the logits that it wants.

        None where it wants none, and where it was cancelled: its lease then has its old length.
        """


class PortableDecoder:
    """Runs a graph of flavour `portable`, chat after chat."""

    def __init__(self, graph: Graph, architecture: Architecture, max_cache_tokens: int, block_size: int) -> None:
        """`block_size`: tokens that are found again together, best a prefill chunk: what is computed anew is cut alike.

        Raises `BundleError` if the graph does not have the inputs and outputs of docs/bundle.md.
        """
        check_contract(graph, portable_decoder_contract(architecture, gives_hidden="hidden" in graph.outputs))
        self._graph = graph
        self._text = architecture.text
        self._num_taps = len(architecture.vision.deepstack_layers)
        names = [f"{kind}.{layer}" for layer in range(self._text.num_layers) for kind in ("key", "value")]
        self._rows = dict.fromkeys(names, (np.dtype(np.float32), (self._text.head_dim,)))
        self.kv_bytes_per_token = bytes_per_token(self._rows, architecture.text.num_kv_heads)
        """What a token takes in the cache, over all layers."""
        self._kv_cache = ContiguousKVCache(max_cache_tokens, block_size, self._allocate, _ChatMemory.copy)

    @property
    def kv_cache(self) -> ContiguousKVCache[_ChatMemory]:
        """The cache that leases come from."""
        return self._kv_cache

    def forward(self, steps: Sequence[DecoderStep]) -> list[Logits | None]:
        """As `Decoder.forward`."""
        return [self._run(step) for step in steps]

    def _run(self, step: DecoderStep) -> Logits | None:
        lease, num_tokens = step.lease, len(step.inputs_embeds)
        memory = _chat_memory(lease)
        total = lease.length + num_tokens
        if total > lease.capacity:
            raise InternalError(f"{total} tokens in a KV lease of {lease.capacity}")
        outputs = logits_buffers(self._graph, self._text, step.num_logits)
        inputs: dict[str, Array] = {
            "inputs_embeds": step.inputs_embeds,
            "rope_cos": step.rope_cos,
            "rope_sin": step.rope_sin,
            "seqlens_k": np.array([total - 1], dtype=np.int32),
            "total_sequence_length": np.array(total, dtype=np.int32),
            "logits_rows": np.arange(num_tokens - step.num_logits, num_tokens),
        }
        if self._num_taps:
            inputs["deepstack"] = step.deepstack
        try:
            memory.binding.run(inputs, outputs, step.cancel)
        except Cancelled:
            return None
        lease.extend(num_tokens)
        return split_logits(outputs, [step.num_logits])[0]

    def dump(self, lease: KVLease, start: int, num_tokens: int) -> bytes:
        """As `KVBlocks.dump`."""
        return _chat_memory(lease).memory.dump(0, num_tokens, start)

    def load(self, lease: KVLease, start: int, num_tokens: int, saved: bytes) -> None:
        """As `KVBlocks.load`."""
        _chat_memory(lease).memory.load(0, num_tokens, saved, start)

    def _allocate(self, num_tokens: int) -> _ChatMemory:
        """Keys and values of one chat: a single block, past and present in one."""
        memory = KVMemory(self._rows, self._text.num_kv_heads, num_blocks=1, block_size=num_tokens)
        arrays = [(f"past_{name}", f"present_{name}", memory.arrays[name]) for name in self._rows]
        return _ChatMemory(memory, self._graph.bind(arrays))


@dataclass(frozen=True, slots=True, eq=False)
class _ChatMemory:
    """One chat's keys and values, and the graph's binding to them."""

    memory: KVMemory
    binding: Binding

    def copy(self, target: _ChatMemory, rows: NDArray[np.int64]) -> None:
        """Copy `rows` to the first ones of `target`."""
        self.memory.copy_rows(rows, np.arange(len(rows)), into=target.memory)


def _chat_memory(lease: KVLease) -> _ChatMemory:
    """What a lease of this decoder holds. Raises `InternalError` for another's."""
    if not isinstance(lease, ContiguousLease):
        raise InternalError(f"a {type(lease).__name__} is not a lease of this decoder's cache")
    memory: _ChatMemory = lease.buffers
    return memory


def logits_buffers(graph: Graph, text: TextArchitecture, num_rows: int) -> dict[str, Array]:
    """Where a run writes the logits of R rows, and, if the graph tells, what the LM head saw."""
    widths = {"logits": text.vocab_size, "hidden": text.hidden_size}
    return {
        name: np.empty((num_rows, width), dtype=np.float32) for name, width in widths.items() if name in graph.outputs
    }


def split_logits(outputs: Mapping[str, Array], counts: Sequence[int]) -> list[Logits | None]:
    """The rows of each step, by their `counts`; None for a step that has none."""
    ends = np.cumsum(counts)
    logits, hidden = outputs["logits"], outputs.get("hidden")
    return [
        Logits(logits[end - count : end], None if hidden is None else hidden[end - count : end]) if count else None
        for end, count in zip(ends, counts, strict=True)
    ]
