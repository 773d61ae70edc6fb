"""One chat through a decoder graph of either flavour: its KV cache, and how full it is.

Bare ONNX Runtime as docs/bundle.md says, on purpose without `edge_runtime`'s decoders: the gate tests graphs alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_export.reference.decoder import DecoderInput
from edge_export.reference.ops import Array
from edge_export.reference.positions import text_rotary
from edge_export.verify.ort import ort
from edge_runtime.devices.profile import KVDtype
from edge_runtime.families.qwen3_vl.config import TextArchitecture
from edge_runtime.model.manifest import Manifest

EDGE_KV_DTYPE: KVDtype = "int8"
"""What an edge bundle is judged with: the coarsest of the three. The others differ in one operator's cache alone."""

EDGE_BLOCK_SIZE = 16


class DecoderRun(Protocol):
    """One chat."""

    def step(self, inputs: DecoderInput) -> Array:
        """Logits [V] of the last of the new tokens, which join the cache."""


def open_run(decoder: ort.InferenceSession, manifest: Manifest, capacity: int) -> DecoderRun:
    """A chat with room for `capacity` tokens."""
    text = manifest.architecture.text
    return (PortableRun if manifest.flavour == "portable" else EdgeRun)(decoder, text, capacity)


class PortableRun:
    """One contiguous buffer per layer, past and present in the same memory."""

    def __init__(self, decoder: ort.InferenceSession, text: TextArchitecture, capacity: int) -> None:
        self._decoder = decoder
        self._text = text
        self._length = 0
        shape = (1, text.num_kv_heads, capacity, text.head_dim)
        self._buffers = {
            f"{kind}.{i}": ort.OrtValue.ortvalue_from_numpy(np.zeros(shape, np.float32))
            for kind in ("key", "value")
            for i in range(text.num_layers)
        }

    def step(self, inputs: DecoderInput) -> Array:
        """Logits [V] of the last of the new tokens, which join the cache."""
        self._length += len(inputs.inputs_embeds)
        feeds = {
            **_rows(inputs, self._text),
            "seqlens_k": np.array([self._length - 1], np.int32),
            "total_sequence_length": np.array(self._length, np.int32),
        }
        binding = self._decoder.io_binding()
        for name, buffer in self._buffers.items():
            binding.bind_ortvalue_input(f"past_{name}", buffer)
            binding.bind_ortvalue_output(f"present_{name}", buffer)
        return _last_logits(self._decoder, binding, feeds)


class EdgeRun:
    """Pools of blocks that the graph writes into; the chat's blocks lie in them from the last to the first."""

    def __init__(self, decoder: ort.InferenceSession, text: TextArchitecture, capacity: int) -> None:
        self._decoder = decoder
        self._text = text
        self._length = 0
        num_blocks = -(-capacity // EDGE_BLOCK_SIZE)
        self._table = np.arange(num_blocks, dtype=np.int32)[::-1].reshape(1, -1).copy()
        pool = (num_blocks, text.num_kv_heads, EDGE_BLOCK_SIZE, text.head_dim)
        self._pools: dict[str, NDArray[Any]] = {}
        for i in range(text.num_layers):
            for kind in ("key", "value"):
                self._pools[f"{kind}_cache.{i}"] = np.zeros(pool, np.int8)
                self._pools[f"{kind}_scale.{i}"] = np.zeros(pool[:-1], np.float32)

    def step(self, inputs: DecoderInput) -> Array:
        """Logits [V] of the last of the new tokens, which join the cache."""
        slots = np.arange(self._length, self._length + len(inputs.inputs_embeds), dtype=np.int32)
        self._length += len(slots)
        feeds = {
            **_rows(inputs, self._text),
            "block_table": self._table,
            "token_row": np.zeros_like(slots),
            "token_slot": slots,
            "token_keys": slots + 1,
        }
        binding = self._decoder.io_binding()
        for name, pool in self._pools.items():
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(pool))  # the pool's own memory
        return _last_logits(self._decoder, binding, feeds)


def _rows(inputs: DecoderInput, text: TextArchitecture) -> dict[str, NDArray[Any]]:
    """The inputs that both flavours have."""
    cos, sin = text_rotary(inputs.position_ids, text.head_dim, text.rope_theta, text.mrope_section)
    rows: dict[str, NDArray[Any]] = {
        "inputs_embeds": inputs.inputs_embeds,
        "rope_cos": cos,
        "rope_sin": sin,
        "logits_rows": np.array([len(inputs.inputs_embeds) - 1], np.int64),
    }
    if len(inputs.deepstack):
        rows["deepstack"] = inputs.deepstack
    return rows


def _last_logits(decoder: ort.InferenceSession, binding: ort.IOBinding, feeds: Mapping[str, NDArray[Any]]) -> Array:
    for name, value in feeds.items():
        binding.bind_cpu_input(name, np.ascontiguousarray(value))
    binding.bind_output("logits")
    decoder.run_with_iobinding(binding)
    logits: Array = binding.get_outputs()[-1].numpy()  # [1, V]; bound last
    last: Array = logits[0]
    return last
