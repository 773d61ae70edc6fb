"""A bundle's graphs, driven by bare ONNX Runtime as docs/bundle.md says: the model under test.

Independent of `edge_runtime`'s engine, so that the gate tests graphs and weights alone. Knows no thresholds.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_export.families.qwen3_vl.reference.config import read_config
from edge_export.families.qwen3_vl.reference.decoder import DecoderInput
from edge_export.families.qwen3_vl.reference.ops import Array
from edge_export.families.qwen3_vl.reference.positions import Ints, position_interpolation, vision_rotary
from edge_export.families.qwen3_vl.reference.preprocess import Patches
from edge_export.families.qwen3_vl.reference.prompt import Prompt, decoder_input, position_ids
from edge_export.families.qwen3_vl.verify.decoder_run import EDGE_KV_DTYPE, open_run
from edge_export.verify.ort import ort
from edge_kernels.library import KernelLibrary
from edge_kernels.packing import GROUP, PackedWeight, unpack
from edge_runtime.errors import BundleError
from edge_runtime.families.qwen3_vl.config import vision_segments
from edge_runtime.model.manifest import VISION_GRAPH, Manifest, decoder_graph_name

INT8_ZERO_POINT = 128
"""Zero point of int8 embedding rows."""


class BundleModel:
    """The vision and decoder graphs of one bundle; one of them is loaded at a time, so that large ones fit."""

    def __init__(self, bundle: Path, manifest: Manifest, source: Path, kernels: KernelLibrary | None) -> None:
        """Check the files; `source` is the checkpoint, and graphs of flavour `edge` need `kernels`.

        Raises `BundleError` where a file of the bundle is missing or cut short.
        """
        _check_files(bundle, manifest)
        self._manifest = manifest
        self._config = read_config(source)
        self._bundle = bundle
        self._kernels = kernels
        self._loaded: tuple[str, ort.InferenceSession] | None = None
        self._encoded: dict[int, tuple[Patches, tuple[Array, Array]]] = {}
        self._embedding = _Embedding(bundle, manifest)

    def vision(self, patches: Patches) -> tuple[Array, Array]:
        """Image embeddings [N/4, D] and DeepStack features [L, N/4, D]; the graph runs once per picture."""
        if id(patches) not in self._encoded:
            self._encoded[id(patches)] = (patches, self._run_vision(patches))
        return self._encoded[id(patches)][1]

    def unload(self) -> None:
        """Give back the memory of the graph that is loaded; the next use loads it again."""
        self._loaded = None

    def _run_vision(self, patches: Patches) -> tuple[Array, Array]:
        vision = self._manifest.architecture.vision
        index, weight = position_interpolation(patches.grid, vision.spatial_merge_size, vision.num_position_embeddings)
        cos, sin = vision_rotary(patches.grid, vision.spatial_merge_size, vision.head_dim)
        num_patches = len(patches.pixel_values)
        feeds = {
            "pixel_values": patches.pixel_values,
            "pos_index": index,
            "pos_weight": weight,
            "rope_cos": cos,
            "rope_sin": sin,
            "stream": np.empty((0, vision.hidden_size), np.float32),
            "qkv": np.empty((num_patches, 3 * vision.hidden_size), np.float32),
            "query_rows": np.array([0, num_patches], np.int64),
        }
        found: dict[str, Array] = {}
        for segment, outputs in enumerate(vision_segments(vision)):
            feeds["segment"] = np.array(segment, np.int64)
            found |= zip(outputs, self._graph(VISION_GRAPH).run(list(outputs), feeds), strict=True)
            if segment < vision.depth:
                feeds["stream"], feeds["qkv"] = found[f"stream.{segment}"], found[f"qkv.{segment}"]
        deepstack = [found[f"deepstack.{tap}"] for tap in range(len(vision.deepstack_layers))]
        embeds = found["image_embeds"]
        return embeds, np.stack(deepstack) if deepstack else np.zeros((0, *embeds.shape), np.float32)

    def embed(self, input_ids: Ints) -> Array:
        """Embedding rows [T, D]."""
        return self._embedding.rows(input_ids)

    def greedy(self, prompt: Prompt, max_tokens: int) -> tuple[list[int], Array]:
        """`max_tokens` greedy tokens, end tokens ignored, and the logits [max_tokens, V] that chose them.

        The prompt runs in one pass and each token alone, as at run time.
        """
        inputs = decoder_input(self, self._config, prompt)
        decoder = self._graph(decoder_graph_name(self._manifest.flavour, EDGE_KV_DTYPE))
        run = open_run(decoder, self._manifest, len(prompt.input_ids) + max_tokens)
        rows = [run.step(inputs)]
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

    def _graph(self, name: str) -> ort.InferenceSession:
        if self._loaded is None or self._loaded[0] != name:
            self._loaded = None  # before the other one is there
            self._loaded = (name, _open(self._bundle / name, self._kernels))
        return self._loaded[1]


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
        block = manifest.quantization.embedding.block_size
        assert block is not None, "a table with scales has a block size"
        blocks = -(-text.hidden_size // block)
        self._block = block
        if table.layout == "rows":
            self._rows = np.memmap(bundle / table.file, np.uint8, "r", table.data_offset, shape)
            self._scales = np.memmap(bundle / table.scale_file, np.float32, "r", table.scale_offset, (shape[0], blocks))
            return
        groups = -(-text.vocab_size // GROUP)
        packed = PackedWeight(
            np.memmap(bundle / table.file, np.uint8, "r", table.data_offset, (groups, blocks * block // 4, 64)),
            np.memmap(bundle / table.scale_file, np.float16, "r", table.scale_offset, (groups, blocks, GROUP)),
        )
        values, self._scales = unpack(packed, 8, text.vocab_size)
        self._rows = values.reshape(text.vocab_size, -1)[:, : text.hidden_size]

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


def _open(path: Path, kernels: KernelLibrary | None) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = False  # its free memory would stay with us
    if kernels is not None:
        kernels.use_in(options)
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
