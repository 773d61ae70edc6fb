"""Processor and generation settings of a checkpoint. Knows the files' old and new forms, and nothing of pixels.

transformers 4.57 writes `preprocessor_config.json` and `video_preprocessor_config.json`; 5.x nests both in
`processor_config.json`. Limits stand under `size` (`shortest_edge`, `longest_edge`: pixel counts, whatever the names
say) or, older, as `min_pixels` and `max_pixels`, which win where both are present.
"""

from __future__ import annotations

import math
from pathlib import Path

from edge_export.checkpoint.json_file import JsonObject, read_json, read_json_if_there
from edge_export.errors import ConfigError
from edge_runtime.model.manifest import GenerationDefaults, ImageProcessor, VideoProcessor, VisionArchitecture

VIDEO_FPS = 2.0
VIDEO_MIN_FRAMES = 4
VIDEO_MAX_FRAMES = 768
"""Class attributes of transformers' Qwen3VLVideoProcessor; published files leave them out."""

SAMPLED_TOP_K = 50
"""What transformers' GenerationConfig takes when it samples and the file names no top_k."""


def read_image_processor(folder: Path, vision: VisionArchitecture) -> ImageProcessor:
    """Limits and normalization of images. Raises `ConfigError` for a missing file or field, or a contradiction."""
    config = _processor_config(folder, "preprocessor_config.json", "image_processor")
    _check_patches(config, vision)
    min_pixels, max_pixels = _pixel_limits(config)
    mean, std = _normalization(config)
    return ImageProcessor(min_pixels=min_pixels, max_pixels=max_pixels, mean=mean, std=std)


def read_video_processor(folder: Path, vision: VisionArchitecture) -> VideoProcessor:
    """Limits and normalization of videos. Raises `ConfigError` for a missing file or field, or a contradiction."""
    config = _processor_config(folder, "video_preprocessor_config.json", "video_processor")
    _check_patches(config, vision)
    min_pixels, max_pixels = _pixel_limits(config)
    mean, std = _normalization(config)
    return VideoProcessor(
        min_pixels=min_pixels,
        max_pixels=max_pixels,
        mean=mean,
        std=std,
        fps=config.number("fps") if "fps" in config else VIDEO_FPS,
        min_frames=config.integer("min_frames") if "min_frames" in config else VIDEO_MIN_FRAMES,
        max_frames=config.integer("max_frames") if "max_frames" in config else VIDEO_MAX_FRAMES,
    )


def read_generation_defaults(folder: Path) -> GenerationDefaults:
    """The checkpoint's own sampling defaults; greedy, as in transformers, where it asks for no sampling."""
    config = read_json_if_there(folder / "generation_config.json")
    sampled = "do_sample" in config and config.boolean("do_sample")
    if not sampled:
        config = JsonObject({"repetition_penalty": config.values.get("repetition_penalty")}, config.place)
    return GenerationDefaults(
        temperature=config.number("temperature") if "temperature" in config else float(sampled),
        top_k=config.integer("top_k", minimum=0) if "top_k" in config else SAMPLED_TOP_K * sampled,
        top_p=config.number("top_p") if "top_p" in config else 1.0,
        repetition_penalty=config.number("repetition_penalty") if "repetition_penalty" in config else 1.0,
    )


def _processor_config(folder: Path, name: str, nested_name: str) -> JsonObject:
    nested = folder / "processor_config.json"
    if not (folder / name).is_file() and nested.is_file() and nested_name in (both := read_json(nested)):
        return both.child(nested_name)
    return read_json(folder / name)


def _pixel_limits(config: JsonObject) -> tuple[int, int]:
    size = config.child("size") if "size" in config else JsonObject({}, config.place)
    low = config.integer("min_pixels") if "min_pixels" in config else size.integer("shortest_edge")
    high = config.integer("max_pixels") if "max_pixels" in config else size.integer("longest_edge")
    if low > high:
        raise ConfigError(f"{config.place}: at least {low} but at most {high} pixels; no image can have both")
    return low, high


def _normalization(config: JsonObject) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and standard deviation per channel, of pixels in 0..1."""
    if "rescale_factor" in config and not math.isclose(config.number("rescale_factor"), 1 / 255, rel_tol=1e-6):
        raise ConfigError(f"{config.place}: rescale_factor is {config.values['rescale_factor']}; it must be 1/255")
    mean, std = config.numbers("image_mean", count=3), config.numbers("image_std", count=3)
    if min(std) <= 0:
        raise ConfigError(f"{config.place}: image_std is {list(std)}; it must be positive")
    return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])


def _check_patches(config: JsonObject, vision: VisionArchitecture) -> None:
    wanted = {
        "patch_size": vision.patch_size,
        "temporal_patch_size": vision.temporal_patch_size,
        "merge_size": vision.spatial_merge_size,
    }
    for field, value in wanted.items():
        if (found := config.integer(field)) != value:
            raise ConfigError(f"{config.place}: {field} is {found}, but config.json says {value}; they must agree")
