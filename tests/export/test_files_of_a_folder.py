"""Which files of a checkpoint folder are read, and what is said of the others."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from edge_export.checkpoint.checkpoint import open_checkpoint
from edge_export.errors import ConfigError, CorruptShard, MissingShard
from tests.export.conftest import MakeCheckpoint
from tests.export.small_model import edit_json

NAME = "model.language_model.layers.0.mlp.up_proj.weight"
INDEX = "model.safetensors.index.json"


def read(folder: Path) -> tuple[np.ndarray, str]:
    """One row of the weights, and all warnings."""
    warnings: list[str] = []
    rows = open_checkpoint(str(folder), warnings.append).weights.rows(NAME, 0, 1)
    return rows, "\n".join(warnings)


@pytest.fixture
def sharded(make_checkpoint: MakeCheckpoint) -> Path:
    return make_checkpoint(name="sharded", max_shard_bytes=200_000)


@pytest.mark.parametrize("shards_left", [True, False])
def test_one_file_wins_over_a_leftover_index(make_checkpoint: MakeCheckpoint, sharded: Path, shards_left: bool) -> None:
    new = make_checkpoint(name="new", seed=2)
    expected, _ = read(new)
    if not shards_left:
        for shard in sharded.glob("model-*.safetensors"):
            shard.unlink()
    shutil.copy(new / "model.safetensors", sharded)
    found, warnings = read(sharded)
    assert np.array_equal(found, expected)
    assert INDEX in warnings
    assert ("model-00001-of-" in warnings) is shards_left


def test_an_index_of_the_one_file_is_no_leftover(checkpoint: Path) -> None:
    names = load_file(checkpoint / "model.safetensors")
    (checkpoint / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(names, "model.safetensors")}))
    assert read(checkpoint)[1] == ""


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "consolidated.safetensors", "model-q4.gguf", "model.fp16.safetensors"]
)
def test_weights_that_are_not_read_are_named(checkpoint: Path, name: str) -> None:
    (checkpoint / name).write_bytes(b"")
    assert name in read(checkpoint)[1]


@pytest.mark.parametrize(
    "name", ["training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth", "tokenizer.model"]
)
def test_leftovers_of_training_are_not(checkpoint: Path, name: str) -> None:
    (checkpoint / name).write_bytes(b"")
    assert read(checkpoint)[1] == ""


@pytest.mark.parametrize("name", ["consolidated.safetensors", "model-00001-of-00004.safetensors"])
def test_files_that_nobody_would_load(checkpoint: Path, name: str) -> None:
    (checkpoint / "model.safetensors").rename(checkpoint / name)
    with pytest.raises(MissingShard, match=name):
        read(checkpoint)


def test_a_tensor_in_two_shards(sharded: Path) -> None:
    first, second = sorted(sharded.glob("model-*.safetensors"))[:2]
    doubled = next(iter(load_file(first)))
    save_file(load_file(second) | {doubled: load_file(first)[doubled]}, second)
    with pytest.raises(CorruptShard, match=f"{doubled} lies in {first.name} and in {second.name}"):
        read(sharded)


def test_a_tensor_that_the_index_does_not_list(sharded: Path) -> None:
    edit_json(sharded / INDEX, lambda index: index["weight_map"].pop(NAME))
    with pytest.raises(CorruptShard, match="does not list it"):
        read(sharded)


def test_a_tensor_that_the_index_places_elsewhere(sharded: Path) -> None:
    names = sorted(path.name for path in sharded.glob("model-*.safetensors"))

    def move(index: dict[str, dict[str, str]]) -> None:
        index["weight_map"][NAME] = names[(names.index(index["weight_map"][NAME]) + 1) % len(names)]

    edit_json(sharded / INDEX, move)
    with pytest.raises(CorruptShard, match=f"{NAME}.*index and shards are of different saves"):
        read(sharded)


def test_a_listed_tensor_that_no_shard_has(sharded: Path) -> None:
    shard = next(iter(sorted(sharded.glob("model-*.safetensors"))))
    edit_json(sharded / INDEX, lambda index: index["weight_map"].update(nowhere=shard.name))
    with pytest.raises(CorruptShard, match="nowhere"):
        read(sharded)


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX pipes")
@pytest.mark.parametrize("kind", ["folder", "pipe"])
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "generation_config.json"])
def test_what_is_no_file_is_refused_and_not_waited_for(checkpoint: Path, name: str, kind: str) -> None:
    (checkpoint / name).unlink()
    os.mkfifo(checkpoint / name) if kind == "pipe" else (checkpoint / name).mkdir()
    with pytest.raises((ConfigError, MissingShard), match=r"no file of at most|neither model\.safetensors"):
        read(checkpoint)
