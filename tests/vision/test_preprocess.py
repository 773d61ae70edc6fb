import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from edge_kernels.library import KernelLibrary
from edge_runtime.errors import BadImage
from edge_runtime.families.qwen3_vl.processor import (
    Normalization,
    PixelRange,
    image_target_size,
    patchify,
    temporal_patch_times,
    video_target_size,
)
from edge_runtime.families.qwen3_vl.vision import patch_positions
from edge_runtime.model.conversation import ImagePart, VideoPart
from edge_runtime.model.manifest import Manifest, load_manifest
from edge_runtime.vision.image import ImageLimits
from edge_runtime.vision.plan import MediaPlanner
from edge_runtime.vision.resize import resize_image

QWEN3 = PixelRange(65_536, 16_777_216)
LIMITS = ImageLimits()


@pytest.fixture(scope="module")
def manifest(tiny_bundle: Path) -> Manifest:
    return load_manifest(tiny_bundle)


@pytest.mark.parametrize(
    ("height", "width", "target"),
    [
        (480, 640, (480, 640)),
        (720, 1280, (704, 1280)),
        (1080, 1920, (1088, 1920)),
        (1, 1, (256, 256)),
        (8, 9, (256, 288)),
    ],
)
def test_sizes_of_known_images(height: int, width: int, target: tuple[int, int]) -> None:
    assert image_target_size(height, width, 32, QWEN3) == target


@given(st.integers(1, 9000), st.integers(1, 9000))
def test_every_target_size_is_allowed(height: int, width: int) -> None:
    if max(height, width) > 200 * min(height, width):
        with pytest.raises(BadImage, match="200 times"):
            image_target_size(height, width, 32, QWEN3)
        return
    target = image_target_size(height, width, 32, QWEN3)
    assert target[0] % 32 == target[1] % 32 == 0
    assert QWEN3.min_pixels <= target[0] * target[1] <= QWEN3.max_pixels
    if max(target) <= 200 * min(target):  # 33 x 6417 may come, and goes to 32 x 6432, which may not
        assert image_target_size(*target, 32, QWEN3) == target


def their_target_size(height: int, width: int, factor: int, pixels: PixelRange) -> tuple[int, int]:
    """`smart_resize` of transformers' qwen2_vl image processor, which breaks its cap at times."""
    high, wide = round(height / factor) * factor, round(width / factor) * factor
    if high * wide > pixels.max_pixels:
        scale = math.sqrt(height * width / pixels.max_pixels)
        return max(factor, int(height / scale / factor) * factor), max(factor, int(width / scale / factor) * factor)
    if high * wide < pixels.min_pixels:
        scale = math.sqrt(pixels.min_pixels / (height * width))
        return math.ceil(height * scale / factor) * factor, math.ceil(width * scale / factor) * factor
    return high, wide


@given(st.integers(1, 9000), st.integers(1, 9000), st.integers(65_536, 2_000_000), st.integers(65_536, 2_000_000))
def test_the_cap_is_kept_and_all_else_is_as_transformers_has_it(height: int, width: int, one: int, other: int) -> None:
    assume(max(height, width) <= 200 * min(height, width))
    pixels = PixelRange(min(one, other), max(one, other))
    target, theirs = image_target_size(height, width, 32, pixels), their_target_size(height, width, 32, pixels)
    assert target[0] * target[1] <= pixels.max_pixels
    assert target == theirs or theirs[0] * theirs[1] > pixels.max_pixels


@pytest.mark.parametrize(
    ("height", "width", "pixels", "target"),
    [
        (32, 6000, PixelRange(65_536, 65_536), (32, 2048)),  # theirs: 32x3488
        (6000, 32, PixelRange(65_536, 65_536), (2048, 32)),
        (20, 1000, PixelRange(65_536, 65_536), (64, 1024)),  # theirs: 64x1824
        (20, 3000, PixelRange(65_536, 1_048_576), (32, 3008)),  # as theirs
    ],
)
def test_thin_images_stay_within_their_cap(
    height: int, width: int, pixels: PixelRange, target: tuple[int, int]
) -> None:
    assert image_target_size(height, width, 32, pixels) == target


@given(st.integers(2, 40), st.integers(32, 4000), st.integers(32, 4000), st.integers(200_000, 3_000_000))
def test_the_cap_of_a_video_is_kept(frames: int, height: int, width: int, most: int) -> None:
    assume(max(height, width) <= 200 * min(height, width))
    target = video_target_size(frames, height, width, 32, 2, PixelRange(4096, most))
    assert frames * target[0] * target[1] <= max(most, frames * 32 * 32)


def test_narrowed_ranges_stay_inside() -> None:
    assert QWEN3.narrowed(None, 100_000) == PixelRange(65_536, 100_000)
    assert QWEN3.narrowed(200_000, None) == PixelRange(200_000, 16_777_216)
    assert QWEN3.narrowed(1, 10**9) == QWEN3
    assert QWEN3.narrowed(None, 10) == PixelRange(65_536, 65_536)
    for crossed in ((9, 8), (0, None), (None, -1)):
        with pytest.raises(BadImage):
            QWEN3.narrowed(*crossed)


def test_video_size_counts_all_frames() -> None:
    budget = PixelRange(4096, 4 * 320 * 320)
    assert video_target_size(4, 320, 320, 32, 2, budget) == (320, 320)
    assert video_target_size(16, 320, 320, 32, 2, budget) == (160, 160)
    for frames, height, width in ((1, 320, 320), (4, 31, 320), (4, 32, 6500)):
        with pytest.raises(BadImage):
            video_target_size(frames, height, width, 32, 2, budget)


def test_resize_keeps_flat_colour_and_returns_same_size_untouched() -> None:
    flat = np.full((50, 70, 3), (10, 200, 30), np.uint8)
    assert (resize_image(flat, 64, 96) == (10, 200, 30)).all()
    assert resize_image(flat, 50, 70) is flat


def test_patches_lie_in_merge_order(manifest: Manifest) -> None:
    vision = manifest.architecture.vision
    rng = np.random.default_rng(0)
    frames = tuple(rng.integers(0, 256, (64, 96, 3), dtype=np.uint8) for _ in range(2))
    values = patchify(frames, Normalization.of((0.5, 0.4, 0.3), (0.5, 0.2, 0.1)), vision)
    assert values.shape == (4 * 6, 3 * 2 * 16 * 16)
    row = 0
    for block_row in range(2):
        for block_column in range(3):
            for patch_row in (0, 1):
                for patch_column in (0, 1):
                    y, x = 16 * (2 * block_row + patch_row), 16 * (2 * block_column + patch_column)
                    patch = np.stack([frame[y : y + 16, x : x + 16] for frame in frames])  # [F, 16, 16, C]
                    wanted = (patch / 255 - (0.5, 0.4, 0.3)) / (0.5, 0.2, 0.1)
                    np.testing.assert_allclose(values[row], wanted.transpose(3, 0, 1, 2).reshape(-1), atol=1e-5)
                    row += 1


def test_single_frame_is_repeated(manifest: Manifest) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    normalization = Normalization.of((0.5,) * 3, (0.5,) * 3)
    vision = manifest.architecture.vision
    twice = (frame, frame.copy())
    np.testing.assert_array_equal(patchify((frame,), normalization, vision), patchify(twice, normalization, vision))


@pytest.mark.parametrize("num_frames", [1, 2])
@pytest.mark.parametrize("size", [(32, 32), (64, 352), (96, 160)])
def test_the_kernel_and_numpy_cut_the_same_bits(
    manifest: Manifest, kernel_library: KernelLibrary, num_frames: int, size: tuple[int, int]
) -> None:
    vision = manifest.architecture.vision
    rng = np.random.default_rng(num_frames)
    # Every other column of a wider picture: frames need not be contiguous.
    frames = tuple(rng.integers(0, 256, (size[0], 2 * size[1], 3), dtype=np.uint8)[:, ::2] for _ in range(num_frames))
    normalization = Normalization.of((0.5, 0.48, 0.4), (0.5, 0.27, 0.26))
    ours = patchify(frames, normalization, vision, kernel_library)
    np.testing.assert_array_equal(ours, patchify(frames, normalization, vision))


@pytest.mark.parametrize(("mean", "std"), [((0.5,) * 3, (0.5,) * 3), ((0.48, 0.46, 0.41), (0.27, 0.26, 0.28))])
def test_bytes_are_normalized_as_transformers_does(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    normalization = Normalization.of(mean, std)
    byte = np.arange(256, dtype=np.float32)[:, None]
    ours = byte * normalization.scale + normalization.offset
    rescaled = np.arange(256)[:, None] * (1 / 255)
    slow = (rescaled.astype(np.float32) - np.float32(mean)) / np.float32(std)
    assert np.abs(ours - slow).max() <= 2e-7 / min(std)


def test_interpolation_weights_sum_to_one_and_hit_the_corners(manifest: Manifest) -> None:
    vision = manifest.architecture.vision
    positions = patch_positions(vision, 6, 10)
    side = round(vision.num_position_embeddings**0.5)
    np.testing.assert_allclose(positions.pos_weight.sum(axis=0), 1, atol=1e-6)
    assert positions.pos_index[0, 0] == 0
    assert positions.pos_weight[0, 0] == 1
    last = positions.pos_index[:, -1][positions.pos_weight[:, -1] > 0]
    assert set(last.tolist()) == {side * side - 1}
    rows = (positions.pos_index // side * positions.pos_weight).sum(axis=0)
    assert rows[2] == pytest.approx((side - 1) / 5, abs=1e-4)  # third in merge order: row 1, column 0


def test_rotary_tables_hold_row_then_column(manifest: Manifest) -> None:
    vision = manifest.architecture.vision
    positions = patch_positions(vision, 4, 4)
    quarter = vision.head_dim // 4
    assert positions.rope_cos.shape == (16, 2 * quarter)
    np.testing.assert_allclose(positions.rope_sin[:4, 0], np.sin([0, 0, 1, 1]), atol=1e-6)
    np.testing.assert_allclose(positions.rope_sin[:4, quarter], np.sin([0, 1, 0, 1]), atol=1e-6)


def test_plan_of_videos(manifest: Manifest) -> None:
    planner = MediaPlanner(manifest, LIMITS)
    frame = np.zeros((64, 96, 3), np.uint8)
    plan = planner.plan(VideoPart((frame,) * 5, (0.0, 1.0, 2.0, 3.0, 4.0)))
    assert [len(run.frames) for run in plan.runs] == [2, 2, 1]
    assert plan.placeholder.timestamps_s == (0.5, 2.5, 4.0)
    other = np.zeros((64, 64, 3), np.uint8)
    for frames, times in (
        ((frame, other), (0.0, 1.0)),
        ((frame,) * 2, (0.0,)),
        ((), ()),
        ((frame,) * 2, (0.0, np.nan)),
    ):
        with pytest.raises(BadImage):
            planner.plan(VideoPart(frames, times))


def test_plan_keeps_to_the_memory_planners_cap(manifest: Manifest) -> None:
    planner = MediaPlanner(manifest, LIMITS, max_run_pixels=100_000)
    big = np.zeros((1000, 1000, 3), np.uint8)
    for part in (ImagePart(big), VideoPart((big, big), (0.0, 1.0))):
        (run,) = planner.plan(part).runs
        assert run.height * run.width <= 100_000


def test_times_of_pairs() -> None:
    assert temporal_patch_times((0.0, 1.0, 3.0), 2) == (0.5, 3.0)
