from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edge_export import pipeline
from edge_export.checkpoint.checkpoint import open_checkpoint
from edge_export.checkpoint.weights import open_weights
from edge_export.errors import ExportError, MissingTensor, NotFinite, OptionError, ParityFailed, WrongShape
from edge_export.options import ExportOptions, resolve_scheme
from edge_export.pipeline import export_bundle
from edge_export.sizes import bundle_bytes
from edge_runtime.model.manifest import Manifest, ParityReport, TensorFormat, WeightFormat, load_manifest
from tests.conftest import NoProgress
from tests.export.conftest import MakeCheckpoint
from tests.export.small_model import edit_json, small_config

EMBEDDING = "model.language_model.embed_tokens.weight"


class CountingProgress:
    """What the progress bars would show."""

    def __init__(self) -> None:
        self.stages: list[list[int]] = []

    def start(self, stage: str, total_bytes: int) -> None:
        self.stages.append([total_bytes, 0])

    def advance(self, num_bytes: int) -> None:
        self.stages[-1][1] += num_bytes


@pytest.fixture(autouse=True)
def gate_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most tests here are not about parity, and the gate is most of a small export's time: all models are large."""
    monkeypatch.setattr(pipeline, "GATED_PARAMETERS", 0)


@pytest.fixture
def gate_on(gate_off: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "GATED_PARAMETERS", 100_000_000)


def export(source: Path, out: Path, **options: object) -> Manifest:
    return export_bundle(str(source), out, ExportOptions(**options), NoProgress())  # type: ignore[arg-type]


def embedding_rows(bundle: Path, manifest: Manifest) -> np.ndarray:
    """The table as docs/bundle.md and the manifest describe it, read with numpy alone."""
    text, table = manifest.architecture.text, manifest.embedding
    shape = (text.vocab_size, text.hidden_size)
    if manifest.quantization.embedding.block_size is None:
        return np.memmap(bundle / table.file, np.float32, "r", table.data_offset, shape)
    assert table.scale_file is not None
    assert table.scale_offset is not None
    values = np.memmap(bundle / table.file, np.uint8, "r", table.data_offset, shape)
    blocks = text.hidden_size // manifest.quantization.embedding.block_size
    scales = np.memmap(bundle / table.scale_file, np.float32, "r", table.scale_offset, (text.vocab_size, blocks))
    centered = values.astype(np.float32).reshape(text.vocab_size, blocks, -1) - 128
    return (centered * scales[:, :, None]).reshape(shape)


@pytest.mark.parametrize(
    ("tied", "weights", "lm_head", "shared"),
    [
        (True, "int4", None, True),
        (True, "int8", None, True),
        (True, "fp32", None, True),
        (True, "int4", "int4", False),
        (True, "fp32", "int8", False),
        (False, "int4", None, False),
        (False, "fp32", None, False),
    ],
)
def test_embedding_is_shared_with_a_tied_head_of_the_same_format(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, tied: bool, weights: str, lm_head: str | None, shared: bool
) -> None:
    source = make_checkpoint(small_config(tie_word_embeddings=tied) | {"tie_word_embeddings": tied})
    out = tmp_path / "out"
    manifest = export(source, out, weights=weights, lm_head=lm_head, flavour="portable")
    assert (manifest.embedding.file == "decoder.onnx.data") is shared
    assert (out / "embedding.bin").exists() is not shared
    assert manifest.embedding.data_offset % 4096 == 0
    original = open_weights(source).rows(EMBEDDING, 0, 1024)
    lost = np.linalg.norm(embedding_rows(out, manifest) - original) / np.linalg.norm(original)
    assert lost == 0 if weights == "fp32" else lost < 0.006


@pytest.mark.usefixtures("gate_on")
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_sources_of_every_dtype_in_many_shards_pass_the_gate(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, dtype: str
) -> None:
    source = make_checkpoint(dtype=dtype, max_shard_bytes=200_000)
    manifest = export(source, tmp_path / "out", weights="fp32")
    assert manifest.parity is not None
    assert manifest.parity.passed
    assert manifest.parity.greedy_tokens_equal == manifest.parity.greedy_tokens_compared > 0
    assert load_manifest(tmp_path / "out") == manifest


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("weights", ["int4", "int8"])
def test_every_quantized_tensor_is_reported(tiny_checkpoint: Path, tmp_path: Path, weights: str, size: int) -> None:
    manifest = export(tiny_checkpoint, tmp_path / "out", weights=weights, block_size=size)
    linear = [e for name, e in open_weights(tiny_checkpoint).entries.items() if len(e.shape) > 1 and "pos_" not in name]
    assert len(manifest.tensor_errors) == len(linear)
    limit = {"int4": 0.1, "int8": 0.007}
    assert all(0 < error.relative_rms < limit[error.weights] for error in manifest.tensor_errors)
    assert manifest.quantization.decoder_linear.weights == weights
    assert {manifest.quantization.vision_linear.weights, manifest.quantization.lm_head.weights} == {"int8"}


def test_files_are_as_the_manifest_says(tiny_bundle_int4: Path) -> None:
    manifest = load_manifest(tiny_bundle_int4)
    present = {path.name for path in tiny_bundle_int4.iterdir()} - {"manifest.json"}
    assert present == set(manifest.files) >= {"vision.onnx", "decoder.onnx", "tokenizer.json", "chat_template.jinja"}
    for name, entry in manifest.files.items():
        data = (tiny_bundle_int4 / name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (entry.size_bytes, entry.sha256)


def test_the_same_checkpoint_gives_the_same_bundle(tiny_checkpoint: Path, tmp_path: Path) -> None:
    first, second = (export(tiny_checkpoint, tmp_path / name) for name in ("a", "b"))
    assert first.files == second.files
    assert first.source_sha256 == open_checkpoint(str(tiny_checkpoint)).sha256()


@pytest.mark.parametrize("lm_head", [None, "int4"])
def test_progress_reaches_its_end(tiny_checkpoint: Path, tmp_path: Path, lm_head: WeightFormat | None) -> None:
    progress = CountingProgress()
    export_bundle(str(tiny_checkpoint), tmp_path / "out", ExportOptions(lm_head=lm_head), progress)
    assert len(progress.stages) == 3
    assert all(total == done > 0 for total, done in progress.stages)


@pytest.mark.parametrize("weights", ["int4", "int8", "fp32"])
def test_the_estimate_covers_the_bundle(tiny_checkpoint: Path, tmp_path: Path, weights: WeightFormat) -> None:
    checkpoint = open_checkpoint(str(tiny_checkpoint))
    manifest = export(tiny_checkpoint, tmp_path / "out", weights=weights)
    written = sum(entry.size_bytes for entry in manifest.files.values())
    scheme = resolve_scheme(ExportOptions(weights=weights), checkpoint.architecture)
    assert written <= bundle_bytes(checkpoint.weights, scheme, tied=True) < written + 100e6


def test_a_checkpoint_that_lacks_its_head(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    source = make_checkpoint()
    edit_json(source / "config.json", lambda c: c.update(tie_word_embeddings=False))
    edit_json(source / "config.json", lambda c: c["text_config"].update(tie_word_embeddings=False))
    with pytest.raises(MissingTensor, match=r"lm_head\.weight.*Qwen3-VL-Embedding.*tie_word_embeddings to true"):
        export(source, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_a_config_of_another_size(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    source = make_checkpoint()
    edit_json(source / "config.json", lambda c: c["text_config"].update(intermediate_size=256))
    with pytest.raises(WrongShape, match=r"gate_proj.*\[128, 64\].*\[256, 64\]"):
        export(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("weights", ["int4", "fp32"])
def test_nan_in_a_weight(make_checkpoint: MakeCheckpoint, tmp_path: Path, weights: str) -> None:
    source = make_checkpoint()
    entry = open_weights(source).entries["model.language_model.layers.1.mlp.up_proj.weight"]
    with entry.path.open("r+b") as file:
        file.seek(entry.offset + 400)
        file.write(np.float32(np.nan).tobytes())
    with pytest.raises(NotFinite, match=r"layers\.1\.mlp\.up_proj\.weight"):
        export(source, tmp_path / "out", weights=weights)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("gate_on")
def test_a_failed_gate_leaves_no_bundle(tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> ParityReport:
        return ParityReport(
            reference="numpy",
            passed=False,
            num_prompts=1,
            vision_cosine=0.5,
            max_abs_logit_error=9.0,
            mean_abs_logit_error=1.0,
            mean_kl=2.0,
            greedy_tokens_compared=10,
            greedy_tokens_equal=3,
        )

    monkeypatch.setattr("edge_export.verify.gate.run_gate", fail)
    with pytest.raises(ParityFailed, match="3 of 10 greedy tokens"):
        export(tiny_checkpoint, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("weights", ["fp32", "int4"])
def test_a_large_model_passes_the_quick_gate_if_asked_to(tiny_checkpoint: Path, tmp_path: Path, weights: str) -> None:
    assert export(tiny_checkpoint, tmp_path / "ungated", weights=weights).parity is None
    parity = export(tiny_checkpoint, tmp_path / "out", weights=weights, gate=True).parity
    assert parity is not None
    assert (parity.passed, parity.num_prompts, parity.greedy_tokens_compared) == (True, 1, 8)


@pytest.mark.parametrize("parent", ["a file", "/proc/x"])
def test_a_place_that_cannot_be_written_is_one_clear_error(tiny_checkpoint: Path, tmp_path: Path, parent: str) -> None:
    (tmp_path / "a file").touch()
    with pytest.raises(ExportError, match="cannot write"):
        export(tiny_checkpoint, tmp_path / parent / "out")


def test_fp32_means_fp32_everywhere_unless_asked(tiny_checkpoint: Path) -> None:
    architecture = open_checkpoint(str(tiny_checkpoint)).architecture
    scheme = resolve_scheme(ExportOptions(weights="fp32"), architecture)
    formats = (scheme.decoder_linear, scheme.vision_linear, scheme.lm_head, scheme.embedding)
    assert {(f.weights, f.block_size) for f in formats} == {("fp32", None)}
    mixed = resolve_scheme(ExportOptions(weights="fp32", vision="int8", lm_head="int4"), architecture)
    assert (mixed.vision_linear.weights, mixed.lm_head.weights) == ("int8", "int4")


@pytest.mark.parametrize(("hidden_size", "block"), [(2048, 128), (64, 64), (96, 32)])
def test_int8_takes_the_largest_block_that_divides_the_hidden_size(
    tiny_checkpoint: Path, hidden_size: int, block: int
) -> None:
    architecture = open_checkpoint(str(tiny_checkpoint)).architecture
    text = msgspec.structs.replace(architecture.text, hidden_size=hidden_size)
    scheme = resolve_scheme(ExportOptions(block_size=64), msgspec.structs.replace(architecture, text=text))
    int8 = {scheme.vision_linear, scheme.lm_head, scheme.embedding}
    assert int8 == {TensorFormat(weights="int8", block_size=block)}
    assert scheme.decoder_linear == TensorFormat(weights="int4", block_size=64)


def test_a_hidden_size_that_int8_embeddings_cannot_have(tiny_checkpoint: Path) -> None:
    architecture = open_checkpoint(str(tiny_checkpoint)).architecture
    text = msgspec.structs.replace(architecture.text, hidden_size=80)
    with pytest.raises(OptionError, match=r"hidden size is 80.*--weights fp32"):
        resolve_scheme(ExportOptions(), msgspec.structs.replace(architecture, text=text))


@pytest.mark.parametrize(
    "choice",
    [
        {"weights": "int3"},
        {"block_size": 48},
        {"block_size": 256},
        {"vision": "int4"},
        {"lm_head": "fp16"},
        {"flavour": "fast"},
    ],
)
def test_choices_nobody_offers(choice: dict[str, object]) -> None:
    with pytest.raises(OptionError, match="choose one of"):
        ExportOptions(**choice)  # type: ignore[arg-type]
