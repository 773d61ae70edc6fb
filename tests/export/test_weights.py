from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from edge_export.checkpoint.checkpoint import open_checkpoint
from edge_export.checkpoint.weights import MAX_WEIGHT, open_weights
from edge_export.errors import CorruptShard, MissingShard, MissingTensor, NotFinite, UnknownDtype, WrongShape
from edge_export.quantize import quantize
from tests.export.conftest import MakeCheckpoint

NAME = "model.language_model.layers.0.self_attn.q_proj.weight"
INDEX = "model.safetensors.index.json"


def write_raw(path: Path, header: bytes, data: bytes = b"", announced: int | None = None) -> None:
    """A safetensors file with any header, true or not."""
    path.write_bytes(struct.pack("<Q", len(header) if announced is None else announced) + header + data)


@pytest.mark.parametrize(
    ("dtype", "numpy_dtype"), [("float32", np.float32), ("float16", np.float16), ("bfloat16", ml_dtypes.bfloat16)]
)
def test_values_are_those_of_the_safetensors_library(
    make_checkpoint: MakeCheckpoint, dtype: str, numpy_dtype: Any
) -> None:
    folder = make_checkpoint(dtype=dtype)
    weights = open_weights(folder)
    for name, expected in load_file(folder / "model.safetensors").items():
        assert expected.dtype == numpy_dtype
        got = weights.rows(name, 0, expected.shape[0])
        assert got.dtype == np.float32
        assert np.array_equal(got, expected.astype(np.float32).reshape(expected.shape[0], -1))
    assert np.array_equal(weights.rows(NAME, 3, 5), weights.rows(NAME, 0, 8)[3:5])


def test_shards_hold_what_one_file_holds(make_checkpoint: MakeCheckpoint) -> None:
    one, many = open_weights(make_checkpoint()), open_weights(make_checkpoint(name="many", max_shard_bytes=100_000))
    assert len(many.shards) > 3
    assert one.entries.keys() == many.entries.keys()
    for name, entry in one.entries.items():
        assert np.array_equal(one.rows(name, 0, entry.shape[0]), many.rows(name, 0, entry.shape[0]))


@pytest.mark.parametrize(
    ("vision", "text", "head"),
    [
        ("visual.", "model.", "lm_head.weight"),
        ("visual.", "language_model.model.", "language_model.lm_head.weight"),
        ("model.visual.", "language_model.", "lm_head.weight"),
    ],
)
def test_older_names_are_found(tmp_path: Path, vision: str, text: str, head: str) -> None:
    value = np.ones((2, 2), dtype=np.float32)
    names = [f"{vision}pos_embed.weight", f"{text}embed_tokens.weight", f"{text}layers.0.x.weight", head]
    save_file(dict.fromkeys(names, value), tmp_path / "model.safetensors")
    assert set(open_weights(tmp_path).entries) == {
        "model.visual.pos_embed.weight",
        "model.language_model.embed_tokens.weight",
        "model.language_model.layers.0.x.weight",
        "lm_head.weight",
    }


def test_hash_tells_checkpoints_apart(make_checkpoint: MakeCheckpoint) -> None:
    def identity(folder: Path) -> str:
        return open_weights(folder).sha256(folder / "config.json", lambda _: None)

    first, again = make_checkpoint(name="a"), make_checkpoint(name="b")
    assert identity(first) == identity(again)
    assert identity(make_checkpoint(name="c", seed=1)) != identity(first)
    (again / "config.json").write_bytes((again / "config.json").read_bytes() + b" ")
    assert identity(again) != identity(first)


def test_missing_tensor_and_wrong_shape(checkpoint: Path) -> None:
    weights = open_weights(checkpoint)
    with pytest.raises(MissingTensor, match=r"no tensor lm_head\.weight.*\[1024, 64\]"):
        weights.require("lm_head.weight", (1024, 64))
    with pytest.raises(WrongShape, match=r"\[128, 64\].*\[64, 128\]"):
        weights.require(NAME, (64, 128))


@pytest.mark.parametrize(
    ("bad", "dtype"),
    [
        *((bad, dtype) for bad in (np.nan, np.inf, -np.inf) for dtype in (np.float32, np.float16, ml_dtypes.bfloat16)),
        (-1e19, np.float32),
        (1e19, ml_dtypes.bfloat16),
    ],
)
def test_values_that_are_no_weights(tmp_path: Path, bad: float, dtype: Any) -> None:
    value = np.ones((8, 4), dtype=dtype)
    value[5, 2] = bad
    save_file({"x.weight": value}, tmp_path / "model.safetensors")
    weights = open_weights(tmp_path)
    weights.rows("x.weight", 0, 5)
    with pytest.raises(NotFinite, match=r"x\.weight holds NaN, Inf or a value beyond 1e\+15 in rows 4 to 7"):
        weights.rows("x.weight", 4, 8)


def test_the_largest_weights_are_quantized_without_overflow(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    value = rng.uniform(-1, 1, (8, 256)).astype(np.float32) * np.float32(0.99 * MAX_WEIGHT)
    save_file({"x.weight": value}, tmp_path / "model.safetensors")
    for bits, worst in ((4, 0.1), (8, 0.006)):
        for block_size in (32, 128):
            _, lost = quantize(open_weights(tmp_path).rows("x.weight", 0, 8), bits, block_size)
            assert 0 < lost.relative_rms < worst


def test_unknown_dtype(checkpoint: Path) -> None:
    tensors = load_file(checkpoint / "model.safetensors")
    save_file(tensors | {NAME: tensors[NAME].astype(np.int8)}, checkpoint / "model.safetensors")
    with pytest.raises(UnknownDtype, match=r"q_proj\.weight is stored as I8.*unquantized"):
        open_checkpoint(str(checkpoint))


def test_every_truncation_of_a_file_is_noticed(tmp_path: Path) -> None:
    whole = tmp_path / "whole.safetensors"
    save_file({"x": np.ones((4, 4), dtype=np.float32)}, whole)
    data = whole.read_bytes()
    for length in range(len(data)):
        (tmp_path / "model.safetensors").write_bytes(data[:length])
        with pytest.raises(CorruptShard, match="truncated or damaged"):
            open_weights(tmp_path)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]},
        {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]},
        {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [1 << 60, 1 << 60], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
        {"dtype": "F32", "shape": [2], "data_offsets": [0]},
        {"dtype": "F32", "shape": ["a"], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": 2, "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [1e400], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [1 << 61] * 9, "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2], "data_offsets": [1 << 70, (1 << 70) + 8]},
        {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
        {"dtype": ["F32"], "shape": [2], "data_offsets": [0, 8]},
        {"shape": [2], "data_offsets": [0, 8]},
        {},
        [],
        None,
        7,
    ],
)
def test_a_lying_header(tmp_path: Path, entry: object) -> None:
    write_raw(tmp_path / "model.safetensors", json.dumps({"x": entry}).encode(), bytes(8))
    with pytest.raises(CorruptShard):
        open_weights(tmp_path)


@pytest.mark.parametrize(
    "header",
    [
        b"{",
        b"[]",
        b"7",
        b"\xff\xfe\xfd",
        b'{"x":{"a":}}',
        b"[" * 200_000,
        b'{"x":' * 50_000,
        b'{"x":{"dtype":"F32","shape":[NaN],"data_offsets":[0,4]}}',
    ],
)
def test_a_malformed_header(tmp_path: Path, header: bytes) -> None:
    write_raw(tmp_path / "model.safetensors", header)
    with pytest.raises(CorruptShard):
        open_weights(tmp_path)


@pytest.mark.parametrize("announced", [0, 1, 10**6, 2**63, 2**64 - 1])
def test_a_header_of_impossible_length(tmp_path: Path, announced: int) -> None:
    write_raw(tmp_path / "model.safetensors", b"{}", announced=announced)
    with pytest.raises(CorruptShard):
        open_weights(tmp_path)


@pytest.mark.parametrize(
    "offsets", [([0, 8], [0, 8]), ([0, 8], [4, 12]), ([0, 8], [12, 20])], ids=["same", "overlap", "gap"]
)
def test_tensors_lie_side_by_side(tmp_path: Path, offsets: tuple[list[int], list[int]]) -> None:
    header = {name: {"dtype": "F32", "shape": [2], "data_offsets": at} for name, at in zip("xy", offsets, strict=True)}
    write_raw(tmp_path / "model.safetensors", json.dumps(header).encode(), bytes(max(offsets[1])))
    with pytest.raises(CorruptShard, match="y lies at bytes"):
        open_weights(tmp_path)


def test_bytes_that_belong_to_no_tensor(tmp_path: Path) -> None:
    save_file({"x": np.ones(4, dtype=np.float32)}, tmp_path / "model.safetensors")
    with (tmp_path / "model.safetensors").open("ab") as file:
        file.write(bytes(8))
    with pytest.raises(CorruptShard, match="the file at 24"):
        open_weights(tmp_path)


def test_a_file_cut_after_it_was_opened(checkpoint: Path) -> None:
    weights = open_weights(checkpoint)
    file = checkpoint / "model.safetensors"
    with file.open("r+b") as shard:
        shard.truncate(weights.entries[NAME].offset + 10)
    with pytest.raises(CorruptShard, match="ends"):
        weights.rows(NAME, 0, 8)


def test_a_missing_shard_is_named(make_checkpoint: MakeCheckpoint) -> None:
    folder = make_checkpoint(max_shard_bytes=100_000)
    gone = sorted(folder.glob("model-*.safetensors"))[1]
    gone.unlink()
    with pytest.raises(MissingShard, match=gone.name):
        open_weights(folder)


def test_shards_without_their_index(make_checkpoint: MakeCheckpoint) -> None:
    folder = make_checkpoint(max_shard_bytes=100_000)
    (folder / INDEX).unlink()
    with pytest.raises(MissingShard, match=INDEX):
        open_weights(folder)


def test_no_weights_at_all(tmp_path: Path) -> None:
    with pytest.raises(MissingShard, match="safetensors only"):
        open_weights(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[" * 200_000,
        "{}",
        '{"weight_map": {}}',
        '{"weight_map": [1]}',
        '{"weight_map": {"x": 1}}',
        '{"weight_map": {"x": "../outside.safetensors"}}',
        '{"weight_map": {"x": ".."}}',
        '{"weight_map": {"x": "a\\u0000b"}}',
        '{"weight_map": {"x": "\\ud800"}}',
    ],
)
def test_a_damaged_index(checkpoint: Path, content: str) -> None:
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / INDEX).write_text(content)
    with pytest.raises(CorruptShard, match=r"index|beside"):
        open_weights(checkpoint)
