"""Manifests that say what cannot be: refused by name before any other file of the bundle is looked at."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from edge_runtime.engine.request import SamplingParams
from edge_runtime.errors import BundleError, EdgeError
from edge_runtime.model.manifest import MANIFEST_NAME, encode_manifest, load_manifest

HUGE = [0, -1, 2**31, 2**62, 2**63, 10**30]
NO_NUMBER = [float("nan"), float("inf"), -1.0, 1e308, None, "1"]
VISION, TEXT = "architecture.vision", "architecture.text"
ODD_VALUES: list[tuple[tuple[str, ...], list[object]]] = [
    ((f"{VISION}.depth", f"{TEXT}.num_layers"), HUGE),
    ((f"{VISION}.hidden_size", f"{VISION}.num_heads"), [*HUGE, 7]),
    ((f"{VISION}.patch_size",), HUGE),
    ((f"{VISION}.in_channels",), [*HUGE, 1, 4]),
    ((f"{VISION}.num_position_embeddings",), [*HUGE, 2303]),
    ((f"{VISION}.out_hidden_size",), [*HUGE, 128]),
    ((f"{VISION}.deepstack_layers",), [[0, 0], [2, 1], [-1], [4], [2**62], [0.5], "01"]),
    ((f"{TEXT}.head_dim", f"{TEXT}.num_kv_heads", f"{TEXT}.num_attention_heads"), [*HUGE, 3]),
    ((f"{TEXT}.vocab_size", f"{TEXT}.hidden_size"), [*HUGE, 2**22]),
    ((f"{TEXT}.max_position_embeddings",), HUGE),
    ((f"{TEXT}.rope_theta",), [*NO_NUMBER, 0.0, 1e-320]),
    ((f"{TEXT}.rms_norm_eps",), NO_NUMBER),
    ((f"{TEXT}.mrope_section",), [[], [16], [26, -5, -5], [6, 5, 5, 0]]),
    (("quantization.decoder_linear.block_size",), [*HUGE, 32]),
    (("quantization.embedding.weights",), ["int4", "fp16"]),
    (("embedding.file",), ["", "/etc/passwd", "../x", "nowhere.bin"]),
    (("embedding.data_offset",), [*HUGE[1:], 2, 10**9]),
    (("embedding.layout",), ["packed"]),
    (("embedding.scale_file",), ["decoder.onnx.data"]),
    (("image_processor.std.0", "video_processor.std.2"), [*NO_NUMBER, 0.0, 1e-320]),
    (("image_processor.mean.0", "video_processor.mean.2"), [*NO_NUMBER[:2], 1e308]),
    (("image_processor.max_pixels", "video_processor.max_pixels"), [0, -1, 2**62, 1000]),
    (("image_processor.min_pixels", "video_processor.min_pixels"), HUGE),
    (("video_processor.fps",), [*NO_NUMBER, 0.0]),
    (("video_processor.min_frames",), [*HUGE, 769]),
    (
        tuple(f"special_tokens.{name}" for name in ("image_pad", "video_pad", "vision_start", "think_end")),
        [*HUGE[1:], 1024],
    ),
    (("special_tokens.think_start",), [None]),
    (("special_tokens.video_pad",), [972]),
    (("special_tokens.eos",), [[], [1024], [-1], [972], [2**62]]),
    (("generation.temperature",), [*NO_NUMBER, 101.0]),
    (("generation.top_k",), [-1, 2**62]),
    (("generation.top_p",), [*NO_NUMBER, 0.0, 1.1]),
    (("generation.repetition_penalty",), [*NO_NUMBER, 0.0]),
    (
        ("files",),
        [{name: {"size_bytes": 1, "sha256": "0" * 64}} for name in ("", ".", "..", "a\0b", "a/b", "a\\b", "x" * 300)],
    ),
    (("files.tokenizer\\.json.size_bytes",), [-1, 2**63]),
    (("files.tokenizer\\.json.sha256",), ["", "z" * 64]),
    (("name",), ["", "a\x1b[2J", "\ud800", "x" * 10_000]),
    (("parity.mean_kl",), NO_NUMBER[:2]),
    (("parity.greedy_tokens_equal",), [-1, 10**6]),
]


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for fields, values in ODD_VALUES for field in fields for value in values]
)
def test_numbers_and_names_that_cannot_be(tiny_manifest: bytes, tmp_path: Path, field: str, value: object) -> None:
    """Refused at the door, by the manifest alone: nothing else is in the folder."""
    manifest = json.loads(tiny_manifest)
    *path, last = (name.replace("\0", ".") for name in field.replace("\\.", "\0").split("."))
    place: Any = manifest
    for name in path:
        place = place[int(name) if isinstance(place, list) else name]
    place[int(last) if isinstance(place, list) else last] = value
    (tmp_path / MANIFEST_NAME).write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="export the bundle again"):
        load_manifest(tmp_path)


@pytest.fixture(scope="module")
def tiny_manifest(tiny_bundle: Path) -> bytes:
    return (tiny_bundle / MANIFEST_NAME).read_bytes()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"[" * 100_000, "not a valid manifest"),
        (b'{"format_version": 1, "x": ' + b"[" * 100_000, "not a valid manifest"),
        (b'{"format_version": 1, "format_version": 1}', "'format_version' twice"),
        (b'{"a": {"b": 1, "b": 2}}', "'b' twice"),
        (b"\xff\xfe", "not a valid manifest"),
        (b'{"format_version": ' + b"9" * 5000 + b"}", "not a valid manifest"),
        (b" " * (9 * 2**20), "bytes, 8388608 are allowed"),
    ],
)
def test_manifests_that_are_hard_to_read(tmp_path: Path, text: bytes, message: str) -> None:
    (tmp_path / MANIFEST_NAME).write_bytes(text)
    with pytest.raises(BundleError, match=message):
        load_manifest(tmp_path)


def test_generation_defaults_are_what_a_request_may_ask_for(tiny_bundle: Path) -> None:
    """The manifest's limits and those of `SamplingParams`, which live in two packages, are the same."""
    manifest = load_manifest(tiny_bundle)
    for field, values in {
        "temperature": (0.0, 100.0, -0.1, 100.1),
        "top_k": (0, 2**31, -1, 2**31 + 1),
        "top_p": (1e-6, 1.0, 0.0, 1.1),
        "repetition_penalty": (1e-3, 100.0, 0.0, 100.1),
    }.items():
        for value in values:
            changed = replace(manifest, generation=replace(manifest.generation, **{field: value}))
            is_default = _is_taken(partial(encode_manifest, changed))
            assert is_default is _is_taken(partial(SamplingParams, **{field: value}))


def _is_taken(make: Callable[[], object]) -> bool:
    try:
        make()
    except EdgeError:
        return False
    return True
