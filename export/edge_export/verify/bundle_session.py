"""A bundle's graphs, driven by bare ONNX Runtime as docs/bundle.md says: the model under test.

Independent of `edge_runtime`'s engine, so that the gate tests graphs and weights alone. Knows no thresholds.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edge_export.reference.config import ReferenceConfig
from edge_export.reference.decoder import DecoderInput
from edge_export.reference.ops import Array
from edge_export.reference.positions import Ints, position_interpolation, text_rotary, vision_rotary
from edge_export.reference.preprocess import Patches
from edge_export.reference.prompt import Prompt, decoder_input, position_ids
from edge_runtime.errors import BundleError
from edge_runtime.model.manifest import Manifest

INT8_ZERO_POINT = 128
"""Zero point of int8 embedding rows."""


class BundleSession:
    """The vision and decoder graphs of one bundle."""

    def __init__(self, bundle: Path, manifest: Manifest, config: ReferenceConfig) -> None:
        """Load the graphs. Raises `BundleError` where a file of the bundle is missing or cut short."""
        _check_files(bundle, manifest)
        self._manifest = manifest
        self._config = config
        self._vision = _open(bundle / "vision.onnx")
        self._decoder = _open(bundle / "decoder.onnx")
        self._embedding = _Embedding(bundle, manifest)

    def vision(self, patches: Patches) -> tuple[Array, Array]:
        """Image embeddings [N/4, D] and DeepStack features [L, N/4, D]."""
        vision = self._manifest.architecture.vision
        index, weight = position_interpolation(patches.grid, vision.spatial_merge_size, vision.num_position_embeddings)
        cos, sin = vision_rotary(patches.grid, vision.spatial_merge_size, vision.head_dim)
        feeds = {
            "pixel_values": patches.pixel_values,
            "pos_index": index,
            "pos_weight": weight,
            "rope_cos": cos,
            "rope_sin": sin,
        }
        image_embeds, *deepstack = self._vision.run(None, feeds)
        return image_embeds, deepstack[0] if deepstack else np.zeros((0, *image_embeds.shape), np.float32)

    def embed(self, input_ids: Ints) -> Array:
        """Embedding rows [T, D]."""
        return self._embedding.rows(input_ids)

    def greedy(self, prompt: Prompt, max_tokens: int) -> tuple[list[int], Array]:
        """`max_tokens` greedy tokens, end tokens ignored, and the logits [max_tokens, V] that chose them.

        The prompt runs in one pass and each token alone, as at run time.
        """
        run = _DecoderRun(self._decoder, self._manifest, len(prompt.input_ids) + max_tokens)
        rows = [run.step(decoder_input(self, self._config, prompt))]
        tokens = [int(rows[0].argmax())]
        _, rope_delta = position_ids(self._config, prompt)
        taps = len(self._manifest.architecture.vision.deepstack_layers)
        while len(tokens) < max_tokens:
            inputs_embeds = self.embed(np.array(tokens[-1:], np.int64))  # [1, D]
            position = len(prompt.input_ids) + len(tokens) - 1 + rope_delta
            deepstack = np.zeros((taps, *inputs_embeds.shape), np.float32)
            rows.append(run.step(DecoderInput(inputs_embeds, deepstack, np.full((3, 1), position, np.int64))))
            tokens.append(int(rows[-1].argmax()))
        return tokens, np.stack(rows)


class _DecoderRun:
    """One chat: the KV cache buffers, past and present in the same memory, and how full they are."""

    def __init__(self, decoder: ort.InferenceSession, manifest: Manifest, capacity: int) -> None:
        self._decoder = decoder
        self._text = manifest.architecture.text
        self._length = 0
        shape = (1, self._text.num_kv_heads, capacity, self._text.head_dim)
        self._buffers = {
            f"{kind}.{i}": ort.OrtValue.ortvalue_from_numpy(np.zeros(shape, np.float32))
            for kind in ("key", "value")
            for i in range(self._text.num_layers)
        }

    def step(self, inputs: DecoderInput) -> Array:
        """Logits [V] of the last of the new tokens, which join the cache."""
        num_tokens = len(inputs.inputs_embeds)
        self._length += num_tokens
        text = self._text
        cos, sin = text_rotary(inputs.position_ids, text.head_dim, text.rope_theta, text.mrope_section)
        feeds = {
            "inputs_embeds": inputs.inputs_embeds,
            "rope_cos": cos,
            "rope_sin": sin,
            "seqlens_k": np.array([self._length - 1], np.int32),
            "total_sequence_length": np.array(self._length, np.int32),
            "logits_rows": np.array([num_tokens - 1], np.int64),
        }
        if len(inputs.deepstack):
            feeds["deepstack"] = inputs.deepstack
        binding = self._decoder.io_binding()
        for name, value in feeds.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(value))
        for name, buffer in self._buffers.items():
            binding.bind_ortvalue_input(f"past_{name}", buffer)
            binding.bind_ortvalue_output(f"present_{name}", buffer)
        binding.bind_output("logits")
        self._decoder.run_with_iobinding(binding)
        logits: Array = binding.get_outputs()[-1].numpy()  # [1, V]; bound last
        last: Array = logits[0]
        return last


class _Embedding:
    """Rows of the bundle's embedding table, dequantized as `manifest.EmbeddingTable` says."""

    def __init__(self, bundle: Path, manifest: Manifest) -> None:
        table, text = manifest.embedding, manifest.architecture.text
        shape = (text.vocab_size, text.hidden_size)
        self._scales: Array | None = None
        self._rows: NDArray[np.float32] | NDArray[np.uint8]
        if table.scale_file is None or table.scale_offset is None:
            self._rows = np.memmap(bundle / table.file, np.float32, "r", table.data_offset, shape)
            return
        self._rows = np.memmap(bundle / table.file, np.uint8, "r", table.data_offset, shape)
        block = manifest.quantization.embedding.block_size
        assert block is not None, "a table with scales has a block size"
        blocks = -(-text.hidden_size // block)
        self._block = block
        self._scales = np.memmap(bundle / table.scale_file, np.float32, "r", table.scale_offset, (shape[0], blocks))

    def rows(self, input_ids: Ints) -> Array:
        """Float32 rows [T, D]."""
        rows = self._rows[input_ids].astype(np.float32)
        if self._scales is None:
            return rows
        scales = self._scales[input_ids].repeat(self._block, axis=1)[:, : rows.shape[1]]
        values: Array = (rows - np.float32(INT8_ZERO_POINT)) * scales
        return values


def _check_files(bundle: Path, manifest: Manifest) -> None:
    for name, entry in manifest.files.items():
        found = (bundle / name).stat().st_size if (bundle / name).is_file() else None
        if found != entry.size_bytes:
            state = "is missing" if found is None else f"has {found} bytes"
            raise BundleError(
                f"{bundle}: {name} {state}, the manifest says {entry.size_bytes} bytes; export the bundle again"
            )


def _open(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
