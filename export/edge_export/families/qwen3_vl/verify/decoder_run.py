"""One chat through a decoder graph of either flavour: its KV cache, and how full it is.

Bare ONNX Runtime as docs/bundle.md says, on purpose without `edge_runtime`'s decoders: the gate tests graphs alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_export.families.qwen3_vl.reference.decoder import DecoderInput
from edge_export.families.qwen3_vl.reference.ops import Array
from edge_export.families.qwen3_vl.reference.positions import text_rotary
from edge_export.verify.ort import ort
from edge_runtime.devices.profile import KVDtype
from edge_runtime.families.qwen3_vl.config import TextArchitecture
from edge_runtime.model.manifest import Manifest

EDGE_KV_DTYPE: KVDtype = "int8"
"""What an edge bundle is judged with: the coarsest of the three. The others differ in one operator's cache alone."""

EDGE_BLOCK_SIZE = 16


def open_run(decoder: ort.InferenceSession, manifest: Manifest, capacity: int) -> DecoderRun:
    """A chat with room for `capacity` tokens."""
    text = manifest.architecture.text
    return (PortableRun if manifest.flavour == "portable" else EdgeRun)(decoder, text, capacity)


class DecoderRun:
    """One chat; its flavour says where the cache lies."""

    def __init__(self, decoder: ort.InferenceSession, text: TextArchitecture, capacity: int) -> None:
        self._decoder = decoder
        self._text = text
        self._length = 0
        self._allocate(capacity)

    def step(self, inputs: DecoderInput) -> Array:
        """Logits [V] of the last of the new tokens, which join the cache."""
        text, num_tokens = self._text, len(inputs.inputs_embeds)
        cos, sin = text_rotary(inputs.position_ids, text.head_dim, text.rope_theta, text.mrope_section)
        binding = self._decoder.io_binding()
        feeds = self._bind_cache(binding, num_tokens) | {
            "inputs_embeds": inputs.inputs_embeds,
            "rope_cos": cos,
            "rope_sin": sin,
            "logits_rows": np.array([num_tokens - 1], np.int64),
        }
        if len(inputs.deepstack):
            feeds["deepstack"] = inputs.deepstack
        for name, value in feeds.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(value))
        binding.bind_output("logits")
        self._decoder.run_with_iobinding(binding)
        self._length += num_tokens
        logits: Array = binding.get_outputs()[-1].numpy()  # [1, V]; bound last
        last: Array = logits[0]
        return last

    def _allocate(self, capacity: int) -> None:
        """Make room for `capacity` tokens."""
        raise NotImplementedError

    def _bind_cache(self, binding: ort.IOBinding, num_tokens: int) -> dict[str, NDArray[Any]]:
        """Bind the cache, and return the inputs that say where in it `num_tokens` new tokens stand."""
        raise NotImplementedError


class PortableRun(DecoderRun):
    """One contiguous buffer per layer, past and present in the same memory."""

    def _allocate(self, capacity: int) -> None:
        shape = (1, self._text.num_kv_heads, capacity, self._text.head_dim)
        self._buffers = {
            f"{kind}.{i}": ort.OrtValue.ortvalue_from_numpy(np.zeros(shape, np.float32))
            for kind in ("key", "value")
            for i in range(self._text.num_layers)
        }

    def _bind_cache(self, binding: ort.IOBinding, num_tokens: int) -> dict[str, NDArray[Any]]:
        for name, buffer in self._buffers.items():
            binding.bind_ortvalue_input(f"past_{name}", buffer)
            binding.bind_ortvalue_output(f"present_{name}", buffer)
        total = self._length + num_tokens
        return {
            "seqlens_k": np.array([total - 1], np.int32),
            "total_sequence_length": np.array(total, np.int32),
        }


class EdgeRun(DecoderRun):
    """Pools of blocks that the graph writes into; the chat's blocks lie in them from the last to the first."""

    def _allocate(self, capacity: int) -> None:
        num_blocks = -(-capacity // EDGE_BLOCK_SIZE)
        self._table = np.arange(num_blocks, dtype=np.int32)[::-1].reshape(1, -1).copy()
        pool = (num_blocks, self._text.num_kv_heads, EDGE_BLOCK_SIZE, self._text.head_dim)
        self._pools: dict[str, NDArray[Any]] = {}
        for i in range(self._text.num_layers):
            for kind in ("key", "value"):
                self._pools[f"{kind}_cache.{i}"] = np.zeros(pool, np.int8)
                self._pools[f"{kind}_scale.{i}"] = np.zeros(pool[:-1], np.float32)

    def _bind_cache(self, binding: ort.IOBinding, num_tokens: int) -> dict[str, NDArray[Any]]:
        for name, pool in self._pools.items():
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(pool))  # the pool's own memory
        slots = np.arange(self._length, self._length + num_tokens, dtype=np.int32)
        return {
            "block_table": self._table,
            "token_row": np.zeros_like(slots),
            "token_slot": slots,
            "token_keys": slots + 1,
        }
