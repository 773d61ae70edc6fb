"""Random checkpoints: the shape of the published ones, the same bytes for the same seed, files that fit together."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from tokenizers import Tokenizer
from typer.testing import CliRunner

from edge_export.checkpoint.checkpoint import open_checkpoint
from edge_export.cli import app
from edge_export.families.qwen3_vl.random_model import tensor_specs
from edge_export.random_checkpoint import config_for, write_random_checkpoint

TINY_VOCABULARY = 1024


@pytest.mark.parametrize(("size", "billions"), [("2b", 2.13), ("4b", 4.44), ("8b", 8.77)])
def test_sizes_are_those_of_the_published_models(size: str, billions: float) -> None:
    """Parameter counts as on the model pages."""
    total = sum(spec.size for spec in tensor_specs(config_for(size)))
    assert total / 1e9 == pytest.approx(billions, abs=0.01)


def test_an_unknown_size_is_refused() -> None:
    with pytest.raises(ValueError, match="choose one of tiny, 2b, 4b, 8b"):
        config_for("3b")


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        write_random_checkpoint(tmp_path / name, config_for("tiny"), seed=seed)
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b
    assert a != c


@pytest.mark.parametrize(("dtype", "stored"), [("float32", "float32"), ("fp16", "float16"), ("bf16", "bfloat16")])
def test_every_dtype_holds_the_same_values(dtype: str, stored: str, tmp_path: Path, tiny_checkpoint: Path) -> None:
    write_random_checkpoint(tmp_path / "x", config_for("tiny"), dtype=dtype, seed=1)
    exact, rounded = (load_file(folder / "model.safetensors") for folder in (tiny_checkpoint, tmp_path / "x"))
    for name, values in exact.items():
        assert rounded[name].dtype.name == stored
        np.testing.assert_allclose(rounded[name].astype(np.float32), values, rtol=2**-8, atol=1e-7)


def test_shards_hold_what_one_file_holds(tmp_path: Path, tiny_checkpoint: Path) -> None:
    limit = 200_000
    write_random_checkpoint(tmp_path / "x", config_for("tiny"), seed=1, max_shard_bytes=limit)
    index = json.loads((tmp_path / "x" / "model.safetensors.index.json").read_text())
    shards = {file: load_file(tmp_path / "x" / file) for file in set(index["weight_map"].values())}
    whole = load_file(tiny_checkpoint / "model.safetensors")
    assert len(shards) > 2
    assert set(index["weight_map"]) == set(whole)
    assert index["metadata"]["total_size"] == sum(values.nbytes for values in whole.values())
    for name, file in index["weight_map"].items():
        np.testing.assert_array_equal(shards[file][name], whole[name])
    assert all(len(shard) == 1 or sum(v.nbytes for v in shard.values()) <= limit for shard in shards.values())


def test_large_tensors_are_drawn_in_pieces(tmp_path: Path, tiny_checkpoint: Path, monkeypatch) -> None:
    """The pieces must not change the values."""
    monkeypatch.setattr("edge_export.random_weights.CHUNK_VALUES", 1000)
    write_random_checkpoint(tmp_path / "x", config_for("tiny"), seed=1)
    assert (tmp_path / "x" / "model.safetensors").read_bytes() == (tiny_checkpoint / "model.safetensors").read_bytes()


def test_the_tokenizer_agrees_with_the_config(tiny_checkpoint: Path) -> None:
    tokenizer = Tokenizer.from_file(str(tiny_checkpoint / "tokenizer.json"))
    special = open_checkpoint(str(tiny_checkpoint)).special_tokens
    assert tokenizer.token_to_id("<|im_end|>") == special.eos[0]
    assert tokenizer.token_to_id("<|endoftext|>") == special.eos[1]
    assert tokenizer.id_to_token(special.vision_start + 3) == "<|image_pad|>"
    assert max(tokenizer.get_vocab().values()) < TINY_VOCABULARY


@pytest.mark.parametrize("text", ["hello World", "Ünï©ode 日本 🙂", "\n\t  \x00\x7f", "<|image_pad|>x<think>"])
def test_the_tokenizer_loses_nothing(text: str, tiny_checkpoint: Path) -> None:
    tokenizer = Tokenizer.from_file(str(tiny_checkpoint / "tokenizer.json"))
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_special_tokens_of_large_vocabularies_keep_their_ids(tmp_path: Path) -> None:
    """The tokenizer is small, the ids of Qwen's special tokens are not."""
    config = config_for("tiny")
    config["text_config"] |= {"vocab_size": 151936, "hidden_size": 32}
    config["vision_config"]["out_hidden_size"] = 32
    published = config_for("2b")
    for name in ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id"):
        config[name] = published[name]
    write_random_checkpoint(tmp_path / "x", config)
    tokenizer = Tokenizer.from_file(str(tmp_path / "x" / "tokenizer.json"))
    assert tokenizer.encode("a<|image_pad|></think>").ids == [64, 151655, 151668]


def test_a_vocabulary_without_room_is_refused(tmp_path: Path) -> None:
    config = config_for("tiny")
    config["text_config"]["vocab_size"] = 970
    with pytest.raises(ValueError, match="leaves no room"):
        write_random_checkpoint(tmp_path / "x", config)


def test_a_folder_in_use_is_refused(tiny_checkpoint: Path) -> None:
    with pytest.raises(FileExistsError, match="not empty"):
        write_random_checkpoint(tiny_checkpoint, config_for("tiny"))


def test_an_unknown_dtype_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="int3"):
        write_random_checkpoint(tmp_path / "x", config_for("tiny"), dtype="int3")


def test_command(tmp_path: Path) -> None:
    out = tmp_path / "x"
    done = CliRunner().invoke(app, ["random-checkpoint", str(out), "--size", "tiny", "--seed", "3"])
    assert done.exit_code == 0, done.output
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"
    again = CliRunner().invoke(app, ["random-checkpoint", str(out), "--size", "tiny"])
    assert again.exit_code == 2
    assert "not empty" in again.output
