"""Checkpoints from anywhere: whatever stands in their files, they open, or an `ExportError` says why not."""

from __future__ import annotations

import contextlib
import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_export.checkpoint.checkpoint import open_checkpoint
from edge_export.errors import ExportError
from edge_export.random_checkpoint import write_random_checkpoint
from tests.export.small_model import small_config

JSON_FILES = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "tokenizer_config.json",
    "tokenizer.json",
    "special_tokens_map.json",
    "processor_config.json",
    "model.safetensors.index.json",
)
HUGE = (
    2**31,
    2**62,
    2**63,
    2**64,
    2**70,
    10**400,
    -1,
    -5,
    -(2**70),
    1e308,
    -1e308,
    math.inf,
    -math.inf,
    math.nan,
    1e-320,
)
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-10, 10),
    st.sampled_from(HUGE),
    st.floats(),
    st.text(st.characters(), max_size=6),
    st.sampled_from(["\x00", "\ud800", "..", "../x", "1", "NaN", "default", "a" * 5000, "qwen3_vl_moe", "silu\n"]),
    st.just([]),
    st.just({}),
    st.lists(st.sampled_from([*HUGE, None, True, "x", 0, 1]), max_size=4),
    st.builds(lambda depth: json.loads("[" * depth + "]" * depth), st.sampled_from([1, 100, 700])),
    st.dictionaries(st.sampled_from(["rope_type", "content", "dtype", ""]), st.sampled_from([*HUGE, "x"]), max_size=2),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile") / "source"
    write_random_checkpoint(folder, small_config(), max_shard_bytes=1_000_000)
    (folder / "special_tokens_map.json").write_text('{"eos_token": {"content": "<|im_end|>", "lstrip": false}}')
    image, video = (json.loads((folder / f"{kind}preprocessor_config.json").read_text()) for kind in ("", "video_"))
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": image, "video_processor": video}))
    return folder


@contextlib.contextmanager
def written(path: Path, content: bytes) -> Iterator[None]:
    """`path` holds `content` for a while."""
    before = path.read_bytes()
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(before)


def opens_or_is_refused(folder: Path) -> None:
    """What opens can be written down and read again as what it is; nothing but an `ExportError` is raised."""
    try:
        checkpoint = open_checkpoint(str(folder), lambda sentence: sentence.encode() and None)
    except ExportError as error:
        assert str(error).encode()  # it can be printed
        assert len(str(error)) < 2000
        return
    for record in (
        checkpoint.architecture,
        checkpoint.image_processor,
        checkpoint.video_processor,
        checkpoint.special_tokens,
        checkpoint.generation,
    ):
        assert msgspec.json.decode(msgspec.json.encode(record), type=type(record)) == record


def change_one(draw: st.DrawFn, values: Any) -> Any:
    """`values` with another value somewhere inside, drawn level by level."""
    keys = list(values) if isinstance(values, dict) else list(range(len(values))) if isinstance(values, list) else []
    if not keys or draw(st.integers(0, 9)) == 0:
        return draw(VALUES)
    key = draw(st.sampled_from(keys))
    changed = values.copy()
    if draw(st.integers(0, 9)) == 0:
        del changed[key]
    else:
        changed[key] = change_one(draw, changed[key])
    return changed


@st.composite
def changes(draw: st.DrawFn, values: Any) -> bytes:
    text = json.dumps(change_one(draw, values))
    return text.replace("Infinity", draw(st.sampled_from(["Infinity", "1e400"]))).encode()


@pytest.mark.parametrize("name", JSON_FILES)
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_one_value_of_a_json_file(folder: Path, name: str, data: st.DataObject) -> None:
    with written(folder / name, data.draw(changes(json.loads((folder / name).read_text())))):
        opens_or_is_refused(folder)


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_one_value_of_a_header(folder: Path, data: st.DataObject) -> None:
    shard = next(iter(sorted(folder.glob("model-*.safetensors"))))
    raw = shard.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = data.draw(changes(json.loads(raw[8 : 8 + length])))
    with written(shard, struct.pack("<Q", len(header)) + header + raw[8 + length :]):
        opens_or_is_refused(folder)


@pytest.mark.parametrize("name", JSON_FILES)
@pytest.mark.parametrize(
    "content", [b"", b"[" * 200_000, b'{"a":' * 200_000, b"\xff\xfe\x00", b'{"\\ud800": 1}', b"null", b"\x00" * 100]
)
def test_a_file_that_is_no_settings(folder: Path, name: str, content: bytes) -> None:
    with written(folder / name, content), pytest.raises(ExportError):
        open_checkpoint(str(folder))


def test_a_template_that_is_no_text(folder: Path) -> None:
    with written(folder / "chat_template.jinja", b"\xff\xfe\x00"), pytest.raises(ExportError, match="UTF-8"):
        open_checkpoint(str(folder))
