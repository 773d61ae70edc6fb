"""The decoder of flavour `edge`: one graph run for the tokens of all chats, over pools of cache blocks.

Its operators are row-invariant, so a chat's logits do not depend on who shares its runs, nor on where it is cut.
Inputs and outputs are those of docs/bundle.md.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge_runtime.devices.profile import KVDtype
from edge_runtime.errors import Cancelled, InternalError
from edge_runtime.families.qwen3_vl.config import Architecture, TextArchitecture
from edge_runtime.families.qwen3_vl.decoder import edge_decoder_contract
from edge_runtime.model.cancellation import CancelToken
from edge_runtime.model.contract import check_contract
from edge_runtime.model.decoder import DecoderStep, HeadOutputs, Refine
from edge_runtime.model.graph import Array, Graph
from edge_runtime.model.paged_kv_cache import PagedKVCache, PagedLease

BLOCK_SIZE = 64
"""Tokens in a block: as many keys as the attention kernels take at a time (docs/decisions/0030-edge-flavour.md)."""

_POOL_DTYPES = {"fp32": np.float32, "fp16": np.float16, "int8": np.int8}


class RaggedDecoder:
    """Runs a graph of flavour `edge`; owns the pools that hold the keys and values of all chats."""

    def __init__(
        self,
        graph: Graph,
        architecture: Architecture,
        kv_dtype: KVDtype,
        max_cache_tokens: int,
        refine: Refine | None = None,
    ) -> None:
        """`refine` is for graphs with the output `hidden`.

        Raises `BundleError` if the graph does not have the inputs and outputs of docs/bundle.md.
        """
        check_contract(graph, edge_decoder_contract(architecture, kv_dtype, gives_hidden=refine is not None))
        self._text = architecture.text
        self._refine = refine
        self._num_taps = len(architecture.vision.deepstack_layers)
        self._kv_cache = PagedKVCache(max_cache_tokens, BLOCK_SIZE)
        pools = _allocate_pools(architecture.text, kv_dtype, self._kv_cache.num_blocks)
        self._binding = graph.bind([(name, None, pool) for name, pool in pools.items()])

    @property
    def kv_cache(self) -> PagedKVCache:
        """The cache that leases come from."""
        return self._kv_cache

    def forward(self, steps: Sequence[DecoderStep]) -> list[NDArray[np.float32] | None]:
        """Append the tokens of every step to its lease; per step the logits [V] after the last one.

        None where they are not wanted, and where the step was cancelled: its lease then has its old length. A step
        cancelled during a run of several goes on to the end of that run: the others need it.
        """
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

    def _run(self, steps: Sequence[DecoderStep], cancel: CancelToken) -> list[NDArray[np.float32] | None]:
        leases = [_own(step) for step in steps]
        counts = [len(step.inputs.inputs_embeds) for step in steps]
        ends = np.cumsum(counts)
        logits_rows = np.array([end - 1 for end, step in zip(ends, steps, strict=True) if step.want_logits], np.int64)
        head = HeadOutputs(self._text, [step.num_candidates for step in steps if step.want_logits], self._refine)
        inputs: dict[str, Array] = {
            "inputs_embeds": _joined([step.inputs.inputs_embeds for step in steps]),
            "rope_cos": _joined([step.inputs.rope_cos for step in steps]),
            "rope_sin": _joined([step.inputs.rope_sin for step in steps]),
            "logits_rows": logits_rows,
            **_places(leases, counts),
        }
        if self._num_taps:
            inputs["deepstack"] = _joined([step.inputs.deepstack for step in steps], axis=1)
        self._binding.run(inputs, head.buffers, cancel)
        for lease, count in zip(leases, counts, strict=True):
            lease.extend(count)
        rows = iter(head.logits())
        return [next(rows) if step.want_logits else None for step in steps]


def _own(step: DecoderStep) -> PagedLease:
    """The step's lease, checked: ours, and with room for its tokens."""
    lease = step.lease
    if not isinstance(lease, PagedLease):
        raise InternalError(f"a {type(lease).__name__} is not a lease of this decoder's cache")
    total = lease.length + len(step.inputs.inputs_embeds)
    if total > lease.capacity:
        raise InternalError(f"{total} tokens in a KV lease of {lease.capacity}")
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


def _allocate_pools(text: TextArchitecture, kv_dtype: KVDtype, num_blocks: int) -> dict[str, Array]:
    """Pools of every layer by graph input: anonymous pages, which take memory only once a token is written to them."""
    shape = (num_blocks, text.num_kv_heads, BLOCK_SIZE, text.head_dim)
    pools: dict[str, Array] = {}
    for layer in range(text.num_layers):
        for kind in ("key", "value"):
            pools[f"{kind}_cache.{layer}"] = _pages(shape, np.dtype(_POOL_DTYPES[kv_dtype]))
            if kv_dtype == "int8":  # one scale for each token and head
                pools[f"{kind}_scale.{layer}"] = _pages(shape[:-1], np.dtype(np.float32))
    return pools


def _pages(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Array:
    return np.frombuffer(mmap.mmap(-1, math.prod(shape) * dtype.itemsize), dtype=dtype).reshape(shape)
