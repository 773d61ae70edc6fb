"""Processor settings of a checkpoint. Knows the files' old and new forms, and nothing of pixels.

transformers 4.57 writes `preprocessor_config.json` and `video_preprocessor_config.json`; 5.x nests both in
`processor_config.json`. Limits stand under `size` (`shortest_edge`, `longest_edge`: pixel counts, whatever the names
say) or, older, as `min_pixels` and `max_pixels`, which win where both are present. A step of preprocessing that is
switched off, or another than ours, is refused by name: the model was trained on what it gives.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from edge_export.checkpoint.json_file import JsonObject, read_json, read_json_if_there, short
from edge_export.checkpoint.shards import Warn
from edge_export.errors import ConfigError
from edge_runtime.families.qwen3_vl.config import VisionArchitecture
from edge_runtime.model.manifest import ImageProcessor, VideoProcessor

Processor = TypeVar("Processor", ImageProcessor, VideoProcessor)

IMAGE_PROCESSORS = tuple(f"Qwen{n}VLImageProcessor{kind}" for n in (2, 3) for kind in ("", "Fast", "Pil"))
VIDEO_PROCESSORS = ("Qwen3VLVideoProcessor",)

BICUBIC = 3
"""PIL's number for it, which the files hold."""

WANTED_STEPS = {
    "do_resize": (True,),
    "do_rescale": (True,),
    "do_normalize": (True,),
    "do_center_crop": (False,),
    "do_pad": (False,),
    "do_sample_frames": (True,),
    "resample": (BICUBIC, "bicubic"),
}
"""Steps of preprocessing, as ours are; a file may leave out any, as the classes that read it default to these."""

KNOWN_FIELDS = frozenset(
    {
        *("auto_map", "crop_size", "data_format", "default_to_square", "device", "disable_grouping", "do_convert_rgb"),
        *("feature_extractor_type", "fps", "image_mean", "image_processor_type", "image_std", "input_data_format"),
        *("max_frames", "max_pixels", "merge_size", "min_frames", "min_pixels", "num_frames", "pad_size", "patch_size"),
        *("processor_class", "rescale_factor", "return_metadata", "return_tensors", "size", "temporal_patch_size"),
        *("video_metadata", "video_processor_type", *WANTED_STEPS),
    }
)
"""What is read, or changes no pixel: pictures are always made RGB, and sizes of steps that are off mean nothing."""

MIN_STD, MAX_MEAN = 1e-6, 1e6

VIDEO_FPS = 2.0
VIDEO_MIN_FRAMES = 4
VIDEO_MAX_FRAMES = 768
"""Class attributes of transformers' Qwen3VLVideoProcessor; published files leave them out."""

MAX_FPS = 1000.0


def read_image_processor(folder: Path, vision: VisionArchitecture, warn: Warn = lambda _: None) -> ImageProcessor:
    """Limits and normalization of images. Raises `ConfigError` for a missing file or field, or a contradiction."""

    def read(config: JsonObject) -> ImageProcessor:
        _check_steps(config, "image_processor_type", IMAGE_PROCESSORS, warn)
        _check_patches(config, vision)
        min_pixels, max_pixels = _pixel_limits(config, vision)
        mean, std = _normalization(config)
        return ImageProcessor(min_pixels=min_pixels, max_pixels=max_pixels, mean=mean, std=std)

    return _read_either(folder, "preprocessor_config.json", "image_processor", read)


def read_video_processor(folder: Path, vision: VisionArchitecture, warn: Warn = lambda _: None) -> VideoProcessor:
    """Limits and normalization of videos. Raises `ConfigError` for a missing file or field, or a contradiction."""

    def read(config: JsonObject) -> VideoProcessor:
        _check_steps(config, "video_processor_type", VIDEO_PROCESSORS, warn)
        _check_limits_agree(config)
        _check_patches(config, vision)
        min_pixels, max_pixels = _pixel_limits(config, vision)
        mean, std = _normalization(config)
        fps, min_frames, max_frames = _frames(config)
        return VideoProcessor(
            min_pixels=min_pixels,
            max_pixels=max_pixels,
            mean=mean,
            std=std,
            fps=fps,
            min_frames=min_frames,
            max_frames=max_frames,
        )

    return _read_either(folder, "video_preprocessor_config.json", "video_processor", read)


def _read_either(folder: Path, name: str, nested_name: str, read: Callable[[JsonObject], Processor]) -> Processor:
    """What the file `name` says, or `processor_config.json` under `nested_name`; both, if they agree."""
    nested = read_json_if_there(folder / "processor_config.json")
    if nested_name not in nested:
        return read(read_json(folder / name))
    processor = read(nested.child(nested_name))
    if (folder / name).exists() and read(read_json(folder / name)) != processor:
        raise ConfigError(
            f"{folder} has {nested_name} settings in {name} and others in processor_config.json; versions of "
            "transformers differ in which they take, so remove the file that is out of date"
        )
    return processor


def _check_steps(config: JsonObject, kind: str, known: tuple[str, ...], warn: Warn) -> None:
    for field in (kind, "feature_extractor_type"):
        if field in config and config.string(field) not in known:
            raise ConfigError(
                f"{config.place}: {field} is {short(config.values[field])}; only {known[0]} prepares pixels as the "
                "runtime does"
            )
    if "auto_map" in config:
        raise ConfigError(f"{config.place}: auto_map names custom code, which the runtime does not run")
    for field, wanted in WANTED_STEPS.items():
        if field in config and config.values[field] not in wanted:
            raise ConfigError(
                f"{config.place}: {field} is {short(config.values[field])}; the runtime always has {wanted[0]}; "
                "set it so if the model was trained that way"
            )
    if fields := config.unknown(KNOWN_FIELDS):
        warn(f"{config.place}: not read: {fields}")


def _check_limits_agree(config: JsonObject) -> None:
    """transformers' video processor reads `size` alone, so the older fields may not say something else."""
    size = config.child("size") if "size" in config else JsonObject({}, config.place)
    for old, new in (("min_pixels", "shortest_edge"), ("max_pixels", "longest_edge")):
        if old in config and new in size and config.values[old] != size.values[new]:
            raise ConfigError(
                f"{config.place}: {old} is {short(config.values[old])} and size.{new} {short(size.values[new])}, which "
                "mean the same; make them agree"
            )


def _frames(config: JsonObject) -> tuple[float, int, int]:
    """Frames per second, and the fewest and the most frames of a video."""
    if "num_frames" in config:
        raise ConfigError(
            f"{config.place}: num_frames is {short(config.values['num_frames'])}; the runtime samples by time, so set "
            "it to null, and fps, min_frames and max_frames in its place"
        )
    fps = config.number("fps", minimum=1e-3, maximum=MAX_FPS) if "fps" in config else VIDEO_FPS
    low = config.integer("min_frames") if "min_frames" in config else VIDEO_MIN_FRAMES
    high = config.integer("max_frames") if "max_frames" in config else VIDEO_MAX_FRAMES
    if low > high:
        raise ConfigError(f"{config.place}: at least {low} but at most {high} frames; no video can have both")
    return fps, low, high


def _pixel_limits(config: JsonObject, vision: VisionArchitecture) -> tuple[int, int]:
    size = config.child("size") if "size" in config else JsonObject({}, config.place)
    if fields := size.unknown(("shortest_edge", "longest_edge", "min_pixels", "max_pixels")):
        raise ConfigError(f"{config.place}: size has {fields}; Qwen3-VL has shortest_edge and longest_edge alone")
    low = config.integer("min_pixels") if "min_pixels" in config else size.integer("shortest_edge")
    high = config.integer("max_pixels") if "max_pixels" in config else size.integer("longest_edge")
    if low > high:
        raise ConfigError(f"{config.place}: at least {low} but at most {high} pixels; no image can have both")
    if high < (token := (vision.patch_size * vision.spatial_merge_size) ** 2):
        raise ConfigError(f"{config.place}: at most {high} pixels, but one token of a picture stands for {token}")
    return low, high


def _normalization(config: JsonObject) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and standard deviation per channel, of pixels in 0..1."""
    if "rescale_factor" in config and not math.isclose(config.number("rescale_factor"), 1 / 255, rel_tol=1e-6):
        raise ConfigError(f"{config.place}: rescale_factor is {config.values['rescale_factor']}; it must be 1/255")
    mean, std = config.numbers("image_mean", count=3), config.numbers("image_std", count=3)
    if min(std) < MIN_STD:
        raise ConfigError(f"{config.place}: image_std is {list(std)}; it must be positive, at least {MIN_STD}")
    if max(map(abs, mean)) > MAX_MEAN:
        raise ConfigError(f"{config.place}: image_mean is {list(mean)}; pixels are in 0..1 where it is subtracted")
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
