"""Edge bundles against docs/bundle.md: inputs and outputs, packed weights, the shared embedding table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from edge_export.checkpoint.weights import open_weights
from edge_export.errors import ExportError
from edge_export.options import ExportOptions
from edge_export.pipeline import export_bundle
from edge_export.quantize import dequantize as dequantize_blocks
from edge_export.quantize import quantize
from edge_kernels.library import KernelLibrary
from edge_kernels.packing import PackedWeight, dequantize
from edge_runtime.model.embeddings import TokenEmbeddings
from edge_runtime.model.manifest import DECODER_WEIGHTS, MANIFEST_NAME, VISION_GRAPH, kv_dtypes, load_manifest
from tests.conftest import NoProgress
from tests.export.conftest import MakeCheckpoint
from tests.export.small_model import open_graph, small_config

NUM_LAYERS, NUM_KV_HEADS, HEAD_DIM, HIDDEN, VOCAB = 4, 2, 32, 64, 1024
"""Of the tiny model."""
TENSOR_TYPES = {"fp32": "tensor(float)", "fp16": "tensor(float16)", "int8": "tensor(int8)"}
LAYER = "model.language_model.layers.1"


@pytest.mark.parametrize("kv_dtype", kv_dtypes("edge"))
def test_decoder_contract(tiny_bundle_edge: Path, kernel_library: KernelLibrary, kv_dtype: str) -> None:
    graph = open_graph(tiny_bundle_edge / f"decoder.{kv_dtype}.onnx", kernel_library)
    pool = ["num_blocks", NUM_KV_HEADS, "block_size", HEAD_DIM]
    layers = [(kind, i) for i in range(NUM_LAYERS) for kind in ("key", "value")]
    expected = {
        "inputs_embeds": ("tensor(float)", ["T", HIDDEN]),
        "deepstack": ("tensor(float)", [3, "T", HIDDEN]),
        "rope_cos": ("tensor(float)", ["T", HEAD_DIM // 2]),
        "rope_sin": ("tensor(float)", ["T", HEAD_DIM // 2]),
        "block_table": ("tensor(int32)", ["S", "max_blocks"]),
        **{name: ("tensor(int32)", ["T"]) for name in ("token_row", "token_slot", "token_keys")},
        "logits_rows": ("tensor(int64)", ["R"]),
        **{f"{kind}_cache.{i}": (TENSOR_TYPES[kv_dtype], pool) for kind, i in layers},
    }
    if kv_dtype == "int8":
        expected |= {f"{kind}_scale.{i}": ("tensor(float)", pool[:-1]) for kind, i in layers}
    assert {node.name: (node.type, node.shape) for node in graph.get_inputs()} == expected
    assert {node.name: (node.type, node.shape) for node in graph.get_outputs()} == {
        "logits": ("tensor(float)", ["R", VOCAB])
    }


def test_vision_contract(tiny_bundle_edge: Path, tiny_bundle_int4: Path, kernel_library: KernelLibrary) -> None:
    edge = open_graph(tiny_bundle_edge / VISION_GRAPH, kernel_library)
    portable = ort.InferenceSession(tiny_bundle_int4 / VISION_GRAPH)
    for nodes in (ort.InferenceSession.get_inputs, ort.InferenceSession.get_outputs):
        assert [(n.name, n.type, n.shape) for n in nodes(edge)] == [(n.name, n.type, n.shape) for n in nodes(portable)]


def places(graph: Path) -> dict[str, tuple[int, int, tuple[int, ...], int]]:
    """Offset, length, shape and element type of every weight that lies beside `graph`."""
    model = onnx.load(str(graph), load_external_data=False)
    found = {}
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            place = {entry.key: entry.value for entry in tensor.external_data}
            found[tensor.name] = (int(place["offset"]), int(place["length"]), tuple(tensor.dims), tensor.data_type)
    return found


def test_decoder_graphs_share_one_copy_of_the_weights(tiny_bundle_edge: Path) -> None:
    every = [places(tiny_bundle_edge / f"decoder.{kv_dtype}.onnx") for kv_dtype in kv_dtypes("edge")]
    assert every[0] == every[1] == every[2]
    end = 0
    for offset, length, _, _ in sorted(every[0].values()):
        assert offset == -(-end // 4096) * 4096  # the next page: no overlap, no hole
        end = offset + length
    assert end == (tiny_bundle_edge / DECODER_WEIGHTS).stat().st_size


def packed(bundle: Path, name: str, bits: int) -> PackedWeight:
    """The packed weight `name` of the decoder, as it lies in the file."""
    found = places(bundle / "decoder.fp32.onnx")
    arrays: list[NDArray[np.uint8]] = []
    for tensor in (f"{name}.int{bits}", f"{name}.scales"):
        offset, length, shape, element = found[tensor]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(element)
        data = (bundle / DECODER_WEIGHTS).read_bytes()[offset : offset + length]
        arrays.append(np.frombuffer(data, dtype).reshape(shape))
    return PackedWeight(*arrays)  # type: ignore[arg-type]


BLOCKS = {4: 32, 8: HIDDEN}


def rounded(checkpoint: Path, name: str, bits: int) -> NDArray[np.float32]:
    """The checkpoint's tensor after quantization with scales of float16."""
    weights = open_weights(checkpoint)
    rows = weights.rows(name, 0, weights.entries[name].shape[0])
    blocks, _ = quantize(rows, bits, BLOCKS[bits], half_scales=True)
    assert np.array_equal(blocks.scales, blocks.scales.astype(np.float16).astype(np.float32))
    return dequantize_blocks(blocks, bits, rows.shape[1])


def test_qkv_is_one_matrix(tiny_bundle_edge: Path, tiny_checkpoint: Path) -> None:
    stored = dequantize(packed(tiny_bundle_edge, f"{LAYER}.self_attn.qkv_proj.weight", 4), 4, 4 * 32 + 2 * 2 * 32)
    parts = [rounded(tiny_checkpoint, f"{LAYER}.self_attn.{name}_proj.weight", 4) for name in "qkv"]
    assert np.array_equal(stored[:, :HIDDEN], np.concatenate(parts))


def test_gate_and_up_alternate(tiny_bundle_edge: Path, tiny_checkpoint: Path) -> None:
    gate, up = (rounded(tiny_checkpoint, f"{LAYER}.mlp.{name}_proj.weight", 4) for name in ("gate", "up"))
    stored = dequantize(packed(tiny_bundle_edge, f"{LAYER}.mlp.gate_up_proj.weight", 4), 4, 2 * len(gate))
    groups = stored[:, :HIDDEN].reshape(-1, 2, 16, HIDDEN)
    assert np.array_equal(groups[:, 0].reshape(-1, HIDDEN), gate)
    assert np.array_equal(groups[:, 1].reshape(-1, HIDDEN), up)


def test_tied_embedding_is_read_from_the_head(tiny_bundle_edge: Path, tiny_checkpoint: Path) -> None:
    manifest = load_manifest(tiny_bundle_edge)
    assert manifest.embedding.layout == "packed"
    assert manifest.embedding.file == "decoder.onnx.data"
    ids = np.array([0, 15, 16, 1023, 700, 700])
    expected = rounded(tiny_checkpoint, "model.language_model.embed_tokens.weight", 8)[ids]
    assert np.array_equal(TokenEmbeddings(tiny_bundle_edge, manifest).lookup(ids), expected)


@pytest.mark.parametrize(("tied", "lm_head"), [(True, "int4"), (False, None)])
def test_embedding_of_its_own_where_the_head_is_another(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, kernel_library: KernelLibrary, tied: bool, lm_head: str | None
) -> None:
    source = make_checkpoint(small_config(tie_word_embeddings=tied) | {"tie_word_embeddings": tied})
    options = ExportOptions(flavour="edge", lm_head=lm_head)  # type: ignore[arg-type]
    manifest = export_bundle(str(source), tmp_path / "out", options, NoProgress(), kernel_library)
    assert (manifest.embedding.layout, manifest.embedding.file) == ("rows", "embedding.bin")
    assert manifest.parity is not None
    assert manifest.parity.passed


@pytest.mark.parametrize("block_size", [32, 64])
@pytest.mark.parametrize("weights", ["int4", "int8"])
def test_other_formats_pass_the_gate(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, kernel_library: KernelLibrary, weights: str, block_size: int
) -> None:
    """Also with an inner width that is no multiple of a block or of a group: both are padded."""
    source = make_checkpoint(small_config(intermediate_size=152))
    options = ExportOptions(flavour="edge", weights=weights, block_size=block_size)  # type: ignore[arg-type]
    manifest = export_bundle(str(source), tmp_path / "out", options, NoProgress(), kernel_library)
    assert manifest.parity is not None
    assert manifest.parity.passed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ({"head_dim": 36}, "head_dim is 36"),
        ({"head_dim": 264}, "head_dim is 264"),
        ({"head_dim": 24, "num_key_value_heads": 1}, "num_key_value_heads x head_dim is 24"),
    ],
)
def test_models_the_kernels_cannot_run_are_refused(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, text: dict[str, int], message: str
) -> None:
    config = small_config(**text)
    half = text["head_dim"] // 2
    config["text_config"]["rope_scaling"]["mrope_section"] = [half - 4, 2, 2]
    source = make_checkpoint(config)
    with pytest.raises(ExportError, match=message):
        export_bundle(str(source), tmp_path / "out", ExportOptions(flavour="edge"), NoProgress())


def test_without_kernels_a_bundle_is_made_and_not_judged(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_export.pipeline.find_kernels", lambda: None)
    manifest = export_bundle(str(checkpoint), tmp_path / "out", ExportOptions(flavour="edge"), NoProgress())
    assert manifest.parity is None
    assert json.loads((tmp_path / "out" / MANIFEST_NAME).read_text())["flavour"] == "edge"
