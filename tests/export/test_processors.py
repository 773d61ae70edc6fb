from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edge_export.checkpoint.checkpoint import open_checkpoint
from edge_export.checkpoint.generation import REPETITION_PENALTIES, TEMPERATURES, TOP_PS
from edge_export.errors import ConfigError
from edge_runtime.engine.request import SamplingParams
from edge_runtime.errors import BadParameter
from tests.export.small_model import edit_json

IMAGE, VIDEO, GENERATION = "preprocessor_config.json", "video_preprocessor_config.json", "generation_config.json"


def test_published_form(checkpoint: Path) -> None:
    opened = open_checkpoint(str(checkpoint))
    assert (opened.image_processor.min_pixels, opened.image_processor.max_pixels) == (65536, 16777216)
    assert (opened.video_processor.min_pixels, opened.video_processor.max_pixels) == (4096, 25165824)
    assert opened.image_processor.mean == opened.image_processor.std == (0.5, 0.5, 0.5)
    assert (opened.video_processor.fps, opened.video_processor.min_frames, opened.video_processor.max_frames) == (
        2.0,
        4,
        768,
    )


def test_older_limits_win_over_size(checkpoint: Path) -> None:
    edit_json(checkpoint / IMAGE, lambda c: c.update(min_pixels=1024, max_pixels=2048))
    image = open_checkpoint(str(checkpoint)).image_processor
    assert (image.min_pixels, image.max_pixels) == (1024, 2048)
    edit_json(checkpoint / IMAGE, lambda c: c.pop("size"))
    assert open_checkpoint(str(checkpoint)).image_processor == image


def test_null_limits_are_absent_ones(checkpoint: Path) -> None:
    edit_json(checkpoint / IMAGE, lambda c: c.update(min_pixels=None, max_pixels=None))
    assert open_checkpoint(str(checkpoint)).image_processor.min_pixels == 65536


def test_transformers_5_nests_both_in_processor_config(checkpoint: Path) -> None:
    before = open_checkpoint(str(checkpoint))
    image, video = (json.loads((checkpoint / name).read_text()) for name in (IMAGE, VIDEO))
    (checkpoint / "processor_config.json").write_text(json.dumps({"image_processor": image, "video_processor": video}))
    (checkpoint / IMAGE).unlink()
    (checkpoint / VIDEO).unlink()
    after = open_checkpoint(str(checkpoint))
    assert (after.image_processor, after.video_processor) == (before.image_processor, before.video_processor)


def test_video_sampling_is_read(checkpoint: Path) -> None:
    edit_json(checkpoint / VIDEO, lambda c: c.update(fps=1.5, min_frames=2, max_frames=16))
    video = open_checkpoint(str(checkpoint)).video_processor
    assert (video.fps, video.min_frames, video.max_frames) == (1.5, 2, 16)


@pytest.mark.parametrize("name", [IMAGE, VIDEO])
def test_a_missing_file_is_named(checkpoint: Path, name: str) -> None:
    (checkpoint / name).unlink()
    with pytest.raises(ConfigError, match=name):
        open_checkpoint(str(checkpoint))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"size": None}, "shortest_edge"),
        ({"size": {"shortest_edge": 4096}}, "longest_edge"),
        ({"size": {"shortest_edge": 9000, "longest_edge": 4096}}, "no image can have both"),
        ({"image_mean": [0.5]}, "list of 3"),
        ({"image_std": [0.5, 0.5, 0.0]}, "positive"),
        ({"rescale_factor": 1.0}, "1/255"),
        ({"patch_size": 14}, "patch_size is 14"),
        ({"merge_size": 4}, "merge_size is 4"),
        ({"temporal_patch_size": None}, "temporal_patch_size"),
        ({"size": {"height": 448, "width": 448}}, "size has height = 448"),
        ({"size": {"shortest_edge": 4096, "longest_edge": 9000, "max_height": 448}}, "size has max_height"),
        ({"min_pixels": 1, "max_pixels": 1}, "one token of a picture stands for 1024"),
        ({"do_resize": False}, "do_resize"),
        ({"do_rescale": False}, "do_rescale"),
        ({"do_normalize": False}, "do_normalize"),
        ({"do_center_crop": True}, "do_center_crop"),
        ({"do_pad": True}, "do_pad"),
        ({"resample": 2}, "resample is 2"),
        ({"image_processor_type": "CLIPImageProcessor"}, "CLIPImageProcessor"),
        ({"auto_map": {"AutoImageProcessor": "mine.Mine"}}, "auto_map"),
        ({"image_std": [1e-30, 0.5, 0.5]}, "positive"),
        ({"image_mean": [1e300, 0.5, 0.5]}, "numbers of at most"),
        ({"image_mean": [1e10, 0.5, 0.5]}, "0..1"),
        ({"image_mean": "0.5"}, "list of numbers"),
    ],
)
def test_a_bad_value_is_named(checkpoint: Path, edit: dict[str, Any], message: str) -> None:
    edit_json(checkpoint / IMAGE, lambda c: c.update(edit))
    with pytest.raises(ConfigError, match=message):
        open_checkpoint(str(checkpoint))


def test_sampling_defaults(checkpoint: Path) -> None:
    generation = open_checkpoint(str(checkpoint)).generation
    assert (generation.temperature, generation.top_k, generation.top_p) == (0.7, 20, 0.8)


def test_without_do_sample_generation_is_greedy(checkpoint: Path) -> None:
    edit_json(checkpoint / GENERATION, lambda c: c.update(do_sample=False, repetition_penalty=1.2))
    generation = open_checkpoint(str(checkpoint)).generation
    assert (generation.temperature, generation.top_k, generation.top_p) == (0.0, 0, 1.0)
    assert generation.repetition_penalty == 1.2


def test_sampling_without_values_is_that_of_transformers(checkpoint: Path) -> None:
    (checkpoint / GENERATION).write_text('{"do_sample": true, "eos_token_id": 962}')
    generation = open_checkpoint(str(checkpoint)).generation
    assert (generation.temperature, generation.top_k, generation.top_p) == (1.0, 50, 1.0)


def test_other_means_are_honoured(checkpoint: Path) -> None:
    mean, std = [0.48, 0.46, 0.41], [0.27, 0.26, 0.28]
    edit_json(checkpoint / IMAGE, lambda c: c.update(image_mean=mean, image_std=std, do_normalize=True, resample=3))
    image = open_checkpoint(str(checkpoint)).image_processor
    assert (list(image.mean), list(image.std)) == (mean, std)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"fps": 0}, "fps"),
        ({"fps": -1}, "fps"),
        ({"fps": "2"}, "fps"),
        ({"num_frames": 16}, "num_frames"),
        ({"max_pixels": 65536}, "max_pixels is 65536 and size.longest_edge 25165824"),
        ({"do_sample_frames": False}, "do_sample_frames"),
        ({"min_frames": 8, "max_frames": 4}, "no video can have both"),
        ({"min_frames": 0}, "min_frames"),
        ({"video_processor_type": "Qwen2VLVideoProcessor"}, "Qwen2VLVideoProcessor"),
    ],
)
def test_bad_video_settings_are_named(checkpoint: Path, edit: dict[str, Any], message: str) -> None:
    edit_json(checkpoint / VIDEO, lambda c: c.update(edit))
    with pytest.raises(ConfigError, match=message):
        open_checkpoint(str(checkpoint))


def test_two_files_with_different_settings(checkpoint: Path) -> None:
    image = json.loads((checkpoint / IMAGE).read_text())
    (checkpoint / "processor_config.json").write_text(json.dumps({"image_processor": image}))
    open_checkpoint(str(checkpoint))
    image["size"]["longest_edge"] *= 2
    (checkpoint / "processor_config.json").write_text(json.dumps({"image_processor": image}))
    with pytest.raises(ConfigError, match=r"preprocessor_config\.json and others in processor_config\.json"):
        open_checkpoint(str(checkpoint))


@pytest.mark.parametrize(
    "edit",
    [
        {"temperature": -1},
        {"temperature": 1e300},
        {"temperature": "0.7"},
        {"temperature": True},
        {"top_p": 0},
        {"top_p": 1.5},
        {"top_k": -2},
        {"top_k": 2**70},
        {"top_k": 20.0},
        {"repetition_penalty": -5},
        {"repetition_penalty": 0},
        {"do_sample": "true"},
    ],
)
def test_sampling_out_of_range(checkpoint: Path, edit: dict[str, Any]) -> None:
    edit_json(checkpoint / GENERATION, lambda c: c.update(edit))
    with pytest.raises(ConfigError, match=next(iter(edit))):
        open_checkpoint(str(checkpoint))


@pytest.mark.parametrize(
    ("field", "limits"),
    [("temperature", TEMPERATURES), ("top_p", TOP_PS), ("repetition_penalty", REPETITION_PENALTIES)],
)
def test_the_ranges_are_those_of_the_runtime(field: str, limits: tuple[float, float]) -> None:
    low, high = limits
    for value in limits:
        SamplingParams(**{field: value})
    for value in (low - 1e-7, high * 1.01):
        with pytest.raises(BadParameter):
            SamplingParams(**{field: value})


def test_minus_one_switches_top_k_off(checkpoint: Path) -> None:
    edit_json(checkpoint / GENERATION, lambda c: c.update(top_k=-1))
    assert open_checkpoint(str(checkpoint)).generation.top_k == 0


def test_sampling_that_bundles_do_not_have_is_named(checkpoint: Path) -> None:
    edit_json(checkpoint / GENERATION, lambda c: c.update(num_beams=4, presence_penalty=1.5, min_p=0.0, typical_p=1.0))
    warnings: list[str] = []
    open_checkpoint(str(checkpoint), warnings.append)
    (warning,) = warnings
    assert "num_beams = 4" in warning
    assert "presence_penalty = 1.5" in warning
    assert "min_p" not in warning


@pytest.mark.parametrize("name", [IMAGE, VIDEO])
def test_steps_that_nobody_has_heard_of_are_named(checkpoint: Path, name: str) -> None:
    edit_json(
        checkpoint / name, lambda c: c.update(do_sharpen=True, do_flip=False, crop_size=None, do_convert_rgb=True)
    )
    warnings: list[str] = []
    open_checkpoint(str(checkpoint), warnings.append)
    assert warnings == [f"{name}: not read: do_sharpen = True"]
