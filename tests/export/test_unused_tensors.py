"""No tensor of a checkpoint goes missing unseen: it is exported, or named, or the export is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from edge_export.checkpoint.checkpoint import open_checkpoint
from edge_export.errors import MissingTensor, UnknownDtype, UnmergedAdapter, UnusedTensor, WrongShape
from edge_export.families.qwen3_vl.tensors import model_tensors
from edge_export.options import ExportOptions
from edge_export.pipeline import export_bundle
from edge_export.weight_writer import WeightWriter
from tests.export.conftest import MakeCheckpoint
from tests.export.small_model import edit_json, small_config
from tests.export.test_pipeline import CountingProgress

Tensors = dict[str, NDArray[np.float32]]
LAYER = "model.language_model.layers.0"
EMBEDDING, HEAD = "model.language_model.embed_tokens.weight", "lm_head.weight"
SMALL = np.ones((2, 2), dtype=np.float32)


def edit_tensors(folder: Path, edit: Callable[[Tensors], Tensors]) -> None:
    save_file(edit(load_file(folder / "model.safetensors")), folder / "model.safetensors")


def tie(folder: Path, root: bool | None, text: bool | None) -> None:
    def set_flags(config: dict[str, dict[str, object]]) -> None:
        config["tie_word_embeddings"] = root  # type: ignore[assignment] - null is as good as absent
        config["text_config"]["tie_word_embeddings"] = text

    edit_json(folder / "config.json", set_flags)


def opened(folder: Path) -> tuple[bool, str]:
    """Whether the head is the embedding, and all warnings."""
    warnings: list[str] = []
    checkpoint = open_checkpoint(str(folder), warnings.append)
    tied = checkpoint.architecture.text.tie_word_embeddings
    assert (HEAD in checkpoint.weights) is not tied
    return tied, "\n".join(warnings)


@pytest.mark.parametrize("tied", [True, False])
def test_an_export_reads_every_tensor_that_is_expected(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tied: bool
) -> None:
    source = make_checkpoint(small_config(tie_word_embeddings=tied) | {"tie_word_embeddings": tied})
    read: set[str] = set()
    pieces = WeightWriter.pieces
    monkeypatch.setattr(
        WeightWriter, "pieces", lambda self, names, *a, **k: (read.update(names), pieces(self, names, *a, **k))[1]
    )
    export_bundle(str(source), tmp_path / "out", ExportOptions(flavour="portable", gate=False), CountingProgress())
    expected = {name for name, _ in model_tensors(open_checkpoint(str(source)).architecture, tied=tied)}
    assert read == expected == set(load_file(source / "model.safetensors"))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("value_head.summary.weight", "head for scores"),
        ("score.weight", "head for scores"),
        ("model.language_model.layers.2.mlp.up_proj.weight", "no such layer"),
        (f"{LAYER}.self_attn.q_proj.bias", "no such part"),
        (f"{LAYER}.mlp.experts.0.up_proj.weight", "mixture of experts"),
        ("model.visual.blocks.7.norm1.weight", "no such layer"),
        ("model.visual.deepstack_merger_list.2.norm.weight", "no such layer"),
        ("lm_head.bias", "no part of a Qwen3-VL"),
        ("audio_tower.conv.weight", "no part of a Qwen3-VL"),
    ],
)
def test_a_tensor_that_nobody_asks_for(checkpoint: Path, name: str, reason: str) -> None:
    edit_tensors(checkpoint, lambda tensors: tensors | {name: SMALL})
    with pytest.raises(UnusedTensor, match=f"{name}.*{reason}"):
        opened(checkpoint)


def test_layers_for_guessing_ahead_are_named(checkpoint: Path) -> None:
    edit_tensors(checkpoint, lambda tensors: tensors | {"mtp.layers.0.mlp.up_proj.weight": SMALL})
    assert "mtp.layers.0.mlp.up_proj.weight" in opened(checkpoint)[1]


def test_frequencies_are_computed_anyway(checkpoint: Path) -> None:
    edit_tensors(checkpoint, lambda tensors: tensors | {"model.visual.rotary_pos_emb.inv_freq": SMALL})
    assert opened(checkpoint) == (True, "")


@pytest.mark.parametrize(
    "flags", [(True, True), (True, None), (None, True), (False, False), (False, True), (False, None)]
)
def test_a_head_of_its_own_is_used_whatever_the_config_says(checkpoint: Path, flags: tuple[bool | None, ...]) -> None:
    edit_tensors(checkpoint, lambda tensors: tensors | {HEAD: tensors[EMBEDDING][::-1].copy()})
    tie(checkpoint, *flags)
    tied, warnings = opened(checkpoint)
    assert not tied
    assert (HEAD in warnings) is (True in flags)


@pytest.mark.parametrize("flags", [(True, True), (False, False), (None, False)])
def test_a_head_that_is_the_embedding_is_stored_once(checkpoint: Path, flags: tuple[bool | None, ...]) -> None:
    edit_tensors(checkpoint, lambda tensors: tensors | {HEAD: tensors[EMBEDDING].copy()})
    tie(checkpoint, *flags)
    assert opened(checkpoint) == (True, "")


def test_one_value_makes_another_head(checkpoint: Path) -> None:
    def change_the_last(tensors: Tensors) -> Tensors:
        head = tensors[EMBEDDING].copy()
        head[-1, -1] += 1
        return tensors | {HEAD: head}

    edit_tensors(checkpoint, change_the_last)
    assert not opened(checkpoint)[0]


@pytest.mark.parametrize("flags", [(True, False), (False, True)])
def test_no_head_and_a_config_that_contradicts_itself(checkpoint: Path, flags: tuple[bool, bool]) -> None:
    tie(checkpoint, *flags)
    tied, warnings = opened(checkpoint)
    assert tied
    assert "tie_word_embeddings" in warnings


@pytest.mark.parametrize("flags", [(False, False), (False, None), (None, False)])
def test_no_head_where_the_config_says_that_there_is_one(checkpoint: Path, flags: tuple[bool | None, ...]) -> None:
    tie(checkpoint, *flags)
    with pytest.raises(MissingTensor, match=r"no lm_head\.weight.*Embedding.*tie_word_embeddings to true"):
        opened(checkpoint)


def test_the_gate_knows_the_head_too(checkpoint: Path, tmp_path: Path) -> None:
    edit_tensors(checkpoint, lambda tensors: tensors | {HEAD: tensors[EMBEDDING][::-1].copy()})
    for weights in ("fp32", "int4"):
        options = ExportOptions(weights=weights, flavour="portable")  # type: ignore[arg-type] - both are formats
        manifest = export_bundle(str(checkpoint), tmp_path / weights, options, CountingProgress())
        assert manifest.parity is not None
        assert manifest.parity.passed


@pytest.mark.parametrize(
    "edit",
    [
        lambda name: f"_orig_mod.{name}",
        lambda name: f"module.{name}",
        lambda name: name.replace(".self_attn", "._orig_mod.self_attn"),
        lambda name: f"module._orig_mod._fsdp_wrapped_module.{name}",
    ],
)
def test_prefixes_of_training_wrappers(checkpoint: Path, tmp_path: Path, edit: Callable[[str], str]) -> None:
    edit_tensors(checkpoint, lambda tensors: {edit(name): value for name, value in tensors.items()})
    warnings: list[str] = []
    manifest = export_bundle(
        str(checkpoint), tmp_path / "out", ExportOptions(flavour="portable"), CountingProgress(), warn=warnings.append
    )
    assert manifest.parity is not None
    assert "training wrapper" in warnings[0]


def test_two_tensors_for_one_place(checkpoint: Path) -> None:
    edit_tensors(checkpoint, lambda tensors: tensors | {f"_orig_mod.{EMBEDDING}": tensors[EMBEDDING] + 1})
    with pytest.raises(UnusedTensor, match="two tensors for one place"):
        opened(checkpoint)


@pytest.mark.parametrize("rows", [960, 1000, 1088])
def test_a_resized_vocabulary_that_the_config_does_not_know(checkpoint: Path, rows: int) -> None:
    edit_tensors(checkpoint, lambda tensors: tensors | {EMBEDDING: np.resize(tensors[EMBEDDING], (rows, 64))})
    with pytest.raises(WrongShape, match=f"vocab_size in text_config to {rows}"):
        opened(checkpoint)


@pytest.mark.parametrize(
    "name",
    [
        f"{LAYER}.self_attn.q_proj.lora_A.weight",
        f"{LAYER}.self_attn.q_proj.lora_B.default.weight",
        f"{LAYER}.self_attn.q_proj.lora_magnitude_vector",
        "model.language_model.embed_tokens.lora_embedding_A",
        f"{LAYER}.self_attn.q_proj.base_layer.weight",
        "lm_head.modules_to_save.default.weight",
        "lm_head.original_module.weight",
        f"base_model.model.{LAYER}.mlp.up_proj.weight",
        f"{LAYER}.mlp.down_proj.ia3_l",
        f"{LAYER}.mlp.down_proj.hada_w1_a",
        f"{LAYER}.mlp.down_proj.lokr_w1",
        "prompt_encoder.default.embedding.weight",
        "prompt_embeddings",
    ],
)
def test_an_adapter_inside_the_weights(checkpoint: Path, name: str) -> None:
    edit_tensors(checkpoint, lambda tensors: tensors | {name: SMALL})
    with pytest.raises(UnmergedAdapter, match="merge it first"):
        opened(checkpoint)


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize(
    "name",
    [
        "adapter_config.json",
        "adapter_model.safetensors",
        "adapter_model.bin",
        "adapters.safetensors",
        "pytorch_lora_weights.safetensors",
        "non_lora_state_dict.bin",
    ],
)
def test_an_adapter_in_the_folder(checkpoint: Path, name: str, alone: bool) -> None:
    if alone:
        (checkpoint / "model.safetensors").unlink()
        (checkpoint / "config.json").unlink()
    (checkpoint / name).write_text(json.dumps({"peft_type": "LORA"}))
    with pytest.raises(UnmergedAdapter, match=f"adapter.*{name}.*merge it first"):
        opened(checkpoint)


@pytest.mark.parametrize(
    "name", ["qweight", "weight_packed", "weight_scale", "weight_scale_inv", "weight.absmax", "SCB"]
)
def test_weights_that_are_quantized_already(checkpoint: Path, name: str) -> None:
    edit_tensors(checkpoint, lambda tensors: tensors | {f"{LAYER}.mlp.up_proj.{name}": SMALL})
    with pytest.raises(UnknownDtype, match=f"quantized already: .*{name}.*unquantized"):
        opened(checkpoint)


def test_an_index_tells_already_that_there_is_no_head(make_checkpoint: MakeCheckpoint) -> None:
    """Like Qwen3-VL-Embedding-8B: untied, without a head; nobody shall download its shards to hear that."""
    folder = make_checkpoint(max_shard_bytes=200_000)
    for shard in folder.glob("model-*.safetensors"):
        shard.unlink()
    tie(folder, False, None)
    with pytest.raises(MissingTensor, match=r"no lm_head\.weight.*Qwen3-VL-Embedding"):
        opened(folder)


def test_programs_and_adapters_below_are_named(checkpoint: Path) -> None:
    (checkpoint / "modeling_mine.py").touch()
    (checkpoint / "checkpoint-500").mkdir()
    (checkpoint / "checkpoint-500" / "adapter_config.json").write_text("{}")
    warnings = opened(checkpoint)[1]
    assert "not run: modeling_mine.py" in warnings
    assert "checkpoint-500" in warnings
