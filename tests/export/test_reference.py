"""The numpy reference against hand-made examples; that it equals transformers is tests/parity's to show."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from edge_export.families.qwen3_vl.reference import ops
from edge_export.families.qwen3_vl.reference.config import read_config
from edge_export.families.qwen3_vl.reference.model import NumpyReference
from edge_export.families.qwen3_vl.reference.positions import (
    Grid,
    mrope_positions,
    patch_rows_and_columns,
    position_interpolation,
    text_rotary,
    vision_rotary,
)
from edge_export.families.qwen3_vl.reference.preprocess import PatchLayout, image_patches, resized_size, video_patches
from edge_export.families.qwen3_vl.reference.prompt import Prompt
from edge_export.families.qwen3_vl.reference.weights import Weights
from edge_export.random_checkpoint import config_for, write_random_checkpoint

LAYOUT = PatchLayout(min_pixels=65536, max_pixels=16777216)


def test_erf() -> None:
    x = np.linspace(-5, 5, 101, dtype=np.float32)
    np.testing.assert_allclose(ops.erf(x), [math.erf(value) for value in x], atol=2e-7)


def test_softmax_and_silu_do_not_overflow() -> None:
    x = np.array([-1e4, 0.0, 1e4], np.float32)
    np.testing.assert_allclose(ops.softmax(x), [0, 0, 1])
    np.testing.assert_allclose(ops.silu(x), [0, 0, 1e4])


def test_patches_are_in_merge_order() -> None:
    rows, columns = patch_rows_and_columns(Grid(2, 4), merge_size=2)
    assert rows.tolist() == [0, 0, 1, 1, 0, 0, 1, 1]
    assert columns.tolist() == [0, 1, 0, 1, 2, 3, 2, 3]


def test_a_grid_of_the_tables_own_size_is_not_interpolated() -> None:
    index, weight = position_interpolation(Grid(4, 4), merge_size=2, num_embeddings=16)
    rows, columns = patch_rows_and_columns(Grid(4, 4), merge_size=2)
    assert index[0].tolist() == (rows * 4 + columns).tolist()
    np.testing.assert_array_equal(weight[0], 1)
    np.testing.assert_array_equal(weight[1:], 0)


def test_interpolation_weights_add_up_to_one_and_stay_in_the_table() -> None:
    index, weight = position_interpolation(Grid(10, 6), merge_size=2, num_embeddings=2304)
    np.testing.assert_allclose(weight.sum(axis=0), 1, rtol=1e-6)
    assert index.min() == 0
    assert index.max() == 2303


def test_positions_of_text_image_text() -> None:
    """Two words, an image of 2 x 3 tokens, one word: the word goes on after the longer side."""
    is_media = np.array([0, 0, 1, 1, 1, 1, 1, 1, 0], np.bool_)
    positions, delta = mrope_positions(is_media, (Grid(4, 6),), merge_size=2)
    assert positions.tolist() == [
        [0, 1, 2, 2, 2, 2, 2, 2, 5],
        [0, 1, 2, 2, 2, 3, 3, 3, 5],
        [0, 1, 2, 3, 4, 2, 3, 4, 5],
    ]
    assert delta == 6 - 9


def test_frequencies_are_interleaved() -> None:
    """[time, height, width, time, height, width, time, time]: sections 4, 2, 2 of 8 frequencies."""
    positions = np.array([[0], [1], [2]])
    cos, _ = text_rotary(positions, head_dim=16, theta=100.0, mrope_section=(4, 2, 2))
    inverse = 100.0 ** -(np.arange(8) / 8)
    np.testing.assert_allclose(cos[0], np.cos(np.array([0, 1, 2, 0, 1, 2, 0, 0]) * inverse), rtol=1e-6)


def test_vision_angles_follow_row_then_column() -> None:
    cos, sin = vision_rotary(Grid(2, 2), merge_size=2, head_dim=8)
    angles = np.arctan2(sin, cos)
    np.testing.assert_allclose(angles[:, 0], [0, 0, 1, 1], atol=1e-6)
    np.testing.assert_allclose(angles[:, 2], [0, 1, 0, 1], atol=1e-6)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((720, 1280), (704, 1280)), ((5, 7), (224, 320)), ((256, 256), (256, 256)), ((6000, 9000), (3328, 4992))],
)
def test_image_sizes(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert resized_size(*size, LAYOUT) == expected


def test_video_limits_count_all_frames() -> None:
    layout = PatchLayout(min_pixels=4096, max_pixels=4 * 64 * 64)
    assert resized_size(128, 128, layout, num_frames=4) == (64, 64)
    assert resized_size(128, 128, layout) == (128, 128)


def test_values_of_a_patch_are_channel_frame_y_x() -> None:
    image = np.zeros((256, 256, 3), np.uint8)
    image[0, 1, 2] = 255  # blue of the second pixel
    patches = image_patches(image, LAYOUT)
    row = patches.pixel_values[0].reshape(3, 2, 16, 16)
    assert row[2, :, 0, 1].tolist() == [1, 1]  # a still image fills both frames
    assert (patches.pixel_values == 1).sum() == 2
    assert patches.pixel_values.min() == -1


def test_an_odd_frame_is_repeated() -> None:
    frames = [np.full((64, 64, 3), value, np.uint8) for value in (0, 100, 200)]
    first, last = video_patches(frames, PatchLayout(min_pixels=4096, max_pixels=10**6))
    assert len(np.unique(first.pixel_values)) == 2
    assert len(np.unique(last.pixel_values)) == 1


@pytest.fixture(scope="module")
def image_prompt() -> Prompt:
    patches = image_patches(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8), LAYOUT)
    return Prompt(np.array([5, 969, *[972] * 64, 970, 6, 7]), (patches,))


def test_a_token_sees_nothing_after_it(tiny_checkpoint: Path, image_prompt: Prompt) -> None:
    reference = NumpyReference(tiny_checkpoint)
    short, long = reference.logits(image_prompt, [1, 2]), reference.logits(image_prompt, [1, 2, 3, 4])
    np.testing.assert_allclose(long[:3], short, atol=1e-4)


def test_every_part_of_the_picture_reaches_the_logits(tiny_checkpoint: Path, image_prompt: Prompt, monkeypatch) -> None:
    """Without image embeddings, or without any one DeepStack tap, the answer is another."""
    reference = NumpyReference(tiny_checkpoint)
    whole = reference.logits(image_prompt, [])
    image_embeds, deepstack = reference.vision(image_prompt.media[0])
    without = [(image_embeds * 0, deepstack)]
    without += [(image_embeds, deepstack * (np.arange(3) != tap)[:, None, None]) for tap in range(3)]
    for features in without:
        monkeypatch.setattr(reference, "vision", lambda _, features=features: features)
        assert np.abs(reference.logits(image_prompt, []) - whole).max() > 0.05


def test_generated_placeholders_are_plain_tokens(tiny_checkpoint: Path, image_prompt: Prompt) -> None:
    """A model may say `<|image_pad|>`; no image belongs to it."""
    assert NumpyReference(tiny_checkpoint).logits(image_prompt, [972, 1]).shape == (3, 1024)


def test_weights_beyond_the_cache_are_read_again(tiny_checkpoint: Path, image_prompt: Prompt) -> None:
    cached, uncached = (NumpyReference(tiny_checkpoint, Weights(tiny_checkpoint, size)) for size in (1 << 30, 0))
    np.testing.assert_array_equal(cached.logits(image_prompt, [1]), uncached.logits(image_prompt, [1]))


def test_shards_and_untied_head(tmp_path: Path, image_prompt: Prompt) -> None:
    config = config_for("tiny")
    config["tie_word_embeddings"] = config["text_config"]["tie_word_embeddings"] = False
    for name, limit in (("one", None), ("many", 100_000)):
        write_random_checkpoint(tmp_path / name, config, max_shard_bytes=limit)
    one, many = (NumpyReference(tmp_path / name).logits(image_prompt, []) for name in ("one", "many"))
    assert "lm_head.weight" in Weights(tmp_path / "many")
    np.testing.assert_array_equal(one, many)


def test_config_of_transformers_5(tmp_path: Path, tiny_checkpoint: Path) -> None:
    config = json.loads((tiny_checkpoint / "config.json").read_text())
    text = config["text_config"]
    text["rope_parameters"] = text.pop("rope_scaling") | {"rope_theta": text.pop("rope_theta")}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_config(tmp_path) == read_config(tiny_checkpoint)
