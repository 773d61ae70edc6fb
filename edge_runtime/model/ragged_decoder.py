"""The decoder of flavour `edge`: one graph run for the tokens of all chats, over pools of cache blocks.

Its operators are row-invariant, so a chat's logits do not depend on who shares its runs, nor on where it is cut.
Inputs and outputs are those of docs/bundle.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge_runtime.devices.profile import KVDtype
from edge_runtime.errors import Cancelled, InternalError
from edge_runtime.families.qwen3_vl.config import Architecture, TextArchitecture
from edge_runtime.families.qwen3_vl.decoder import edge_decoder_contract
from edge_runtime.model.cancellation import CancelToken
from edge_runtime.model.contract import check_contract
from edge_runtime.model.decoder import DecoderStep, Logits, logits_buffers, split_logits
from edge_runtime.model.graph import Array, Graph
from edge_runtime.model.kv_cache import KVLease
from edge_runtime.model.kv_memory import KVMemory, Rows, bytes_per_token
from edge_runtime.model.paged_kv_cache import PagedKVCache, PagedLease

BLOCK_SIZE = 64
"""Tokens in a block: as many keys as the attention kernels take at a time (docs/decisions/0030-edge-flavour.md)."""

_POOL_DTYPES = {"fp32": np.float32, "fp16": np.float16, "int8": np.int8}


class RaggedDecoder:
    """Runs a graph of flavour `edge`; owns the pools that hold the keys and values of all chats."""

    def __init__(self, graph: Graph, architecture: Architecture, kv_dtype: KVDtype, max_cache_tokens: int) -> None:
        """Raises `BundleError` if the graph does not have the inputs and outputs of docs/bundle.md."""
        gives_hidden = "hidden" in graph.outputs
        check_contract(graph, edge_decoder_contract(architecture, kv_dtype, gives_hidden=gives_hidden))
        self._graph = graph
        self._text = architecture.text
        self._num_taps = len(architecture.vision.deepstack_layers)
        self._kv_cache = PagedKVCache(max_cache_tokens, BLOCK_SIZE)
        rows = _rows(architecture.text, kv_dtype)
        self.kv_bytes_per_token = bytes_per_token(rows, architecture.text.num_kv_heads)
        """What a token takes in the cache, over all layers."""
        self.memory = KVMemory(rows, architecture.text.num_kv_heads, self._kv_cache.num_blocks, BLOCK_SIZE)
        self._kv_cache.copy_rows = self.memory.copy_rows
        self._binding = graph.bind([(name, None, pool) for name, pool in self.memory.arrays.items()])

    @property
    def kv_cache(self) -> PagedKVCache:
        """The cache that leases come from."""
        return self._kv_cache

    def forward(self, steps: Sequence[DecoderStep]) -> list[Logits | None]:
        """As `Decoder.forward`. A step cancelled during a run of several goes on to its end: the others need it."""
        active = [step for step in steps if not step.cancel.cancelled]
        if not active:
            return [None] * len(steps)
        cancel = active[0].cancel if len(active) == 1 else CancelToken()
        try:
            logits = self._run(active, cancel)
        except Cancelled:
            return [None] * len(steps)
        results = dict(zip(map(id, active), logits, strict=True))
        return [results.get(id(step)) for step in steps]

    def dump(self, lease: KVLease, start: int, num_tokens: int) -> bytes:
        """As `KVBlocks.dump`."""
        index, place = divmod(start, BLOCK_SIZE)
        return self.memory.dump(int(_paged(lease).block_ids[index]), num_tokens, place)

    def load(self, lease: KVLease, start: int, num_tokens: int, saved: bytes) -> None:
        """As `KVBlocks.load`."""
        index, place = divmod(start, BLOCK_SIZE)
        self.memory.load(int(_paged(lease).block_ids[index]), num_tokens, saved, place)

    def _run(self, steps: Sequence[DecoderStep], cancel: CancelToken) -> list[Logits | None]:
        leases = [_own(step) for step in steps]
        counts = [len(step.inputs_embeds) for step in steps]
        wanted = [step.num_logits for step in steps]
        rows = [np.arange(end - k, end) for end, k in zip(np.cumsum(counts), wanted, strict=True)]
        outputs = logits_buffers(self._graph, self._text, sum(wanted))
        inputs: dict[str, Array] = {
            "inputs_embeds": _joined([step.inputs_embeds for step in steps]),
            "rope_cos": _joined([step.rope_cos for step in steps]),
            "rope_sin": _joined([step.rope_sin for step in steps]),
            "logits_rows": np.concatenate(rows),
            **_places(leases, counts),
        }
        if self._num_taps:
            inputs["deepstack"] = _joined([step.deepstack for step in steps], axis=1)
        self._binding.run(inputs, outputs, cancel)
        for lease, count in zip(leases, counts, strict=True):
            lease.extend(count)
        return split_logits(outputs, wanted)


def _own(step: DecoderStep) -> PagedLease:
    """The step's lease, checked: ours, and with room for its tokens."""
    lease = _paged(step.lease)
    total = lease.length + len(step.inputs_embeds)
    if total > lease.capacity:
        raise InternalError(f"{total} tokens in a KV lease of {lease.capacity}")
    return lease


def _paged(lease: KVLease) -> PagedLease:
    if not isinstance(lease, PagedLease):
        raise InternalError(f"a {type(lease).__name__} is not a lease of this decoder's cache")
    return lease


def _places(leases: Sequence[PagedLease], counts: Sequence[int]) -> dict[str, Array]:
    """Where the tokens of a run stand: chat s has `counts[s]` tokens that follow those in `leases[s]`."""
    table = np.zeros((len(leases), max(len(lease.block_ids) for lease in leases)), dtype=np.int32)
    for row, lease in zip(table, leases, strict=True):
        row[: len(lease.block_ids)] = lease.block_ids
    slots = [np.arange(lease.length, lease.length + count) for lease, count in zip(leases, counts, strict=True)]
    token_slot = np.concatenate(slots).astype(np.int32)
    return {
        "block_table": table,
        "token_row": np.repeat(np.arange(len(leases), dtype=np.int32), counts),
        "token_slot": token_slot,
        "token_keys": token_slot + np.int32(1),  # all before it, and itself
    }


def _joined(arrays: Sequence[NDArray[np.float32]], axis: int = 0) -> NDArray[np.float32]:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=axis)


def _rows(text: TextArchitecture, kv_dtype: KVDtype) -> dict[str, Rows]:
    """What the pools keep of a token, by graph input."""
    rows: dict[str, Rows] = {}
    for layer in range(text.num_layers):
        for kind in ("key", "value"):
            rows[f"{kind}_cache.{layer}"] = (np.dtype(_POOL_DTYPES[kv_dtype]), (text.head_dim,))
            if kv_dtype == "int8":  # one scale for each token and head
                rows[f"{kind}_scale.{layer}"] = (np.dtype(np.float32), ())
    return rows
