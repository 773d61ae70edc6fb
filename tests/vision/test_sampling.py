"""Which frames of a clip are taken, and how large: at a constant rate, at any other, and in a context too short."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.model.conversation import VideoPart
from edge_runtime.model.manifest import load_manifest
from edge_runtime.serving.messages import VideoSampling
from edge_runtime.vision.image import ImageLimits
from edge_runtime.vision.plan import MediaPlanner
from edge_runtime.vision.sampling import MIN_PAIR_TOKENS, PAIR_TEXT_TOKENS, Timeline, fit_frames, frame_size

QWEN3 = VideoSampling(
    fps=2.0,
    min_frames=4,
    max_frames=768,
    min_pixels=4096,
    max_pixels=25_165_824,
    patch_size=16,
    spatial_merge_size=2,
    temporal_patch_size=2,
)


def steady(num_frames: int, rate: float) -> Timeline:
    return Timeline.of(np.arange(num_frames) / rate, rate)


def tokens(num_frames: int, size: tuple[int, int]) -> int:
    return math.ceil(num_frames / 2) * (math.prod(size) // 1024 + PAIR_TEXT_TOKENS)


@pytest.mark.parametrize(
    ("num_frames", "indices"),
    [(90, [0, 18, 36, 53, 71, 89]), (10, [0, 3, 6, 9]), (3, [0, 1, 2])],
)
def test_steady_clips_are_sampled_by_number(num_frames: int, indices: list[int]) -> None:
    timeline = steady(num_frames, 30.0)
    assert timeline.spread(timeline.num_wanted(QWEN3)) == indices
    assert [timeline.shown_s(index) for index in indices] == [index / 30 for index in indices]


@given(st.integers(1, 4000), st.sampled_from([1.0, 10.0, 15.0, 24000 / 1001, 25.0, 29.97, 30.0, 60.0]))
def test_the_rounding_of_a_containers_clock_changes_nothing(num_frames: int, rate: float) -> None:
    exact = steady(num_frames, rate)
    rounded = Timeline.of(5.0 + np.round(np.arange(num_frames) / rate, 3), rate)
    assert rounded.rate == rate
    num_wanted = exact.num_wanted(QWEN3)
    assert rounded.num_wanted(QWEN3) == num_wanted == min(max(int(num_frames / rate * 2), 4), 768, num_frames)
    indices = [int(place) for place in np.linspace(0, num_frames - 1, num_wanted).round()]
    assert rounded.spread(num_wanted) == exact.spread(num_wanted) == indices


def test_a_rate_that_the_times_do_not_bear_out_does_not_count() -> None:
    times = np.concatenate([np.arange(40) / 40, 1 + np.arange(20) / 4])
    for declared in (10.0, 30.0, math.nan, 0.0, -5.0, math.inf):
        timeline = Timeline.of(times, declared)
        assert timeline.rate is None
        assert timeline.num_wanted(QWEN3) == 11
        shown = [timeline.shown_s(index) for index in timeline.spread(12)]
        assert shown[0] == 0
        assert shown[-1] == 5.75
        assert np.diff(shown).max() <= 0.75


def test_nothing_is_spread_over_gaps() -> None:
    """A camera that records when something moves: two bursts, an hour apart; or a clock that jumped."""
    bursts = np.concatenate([np.arange(50) / 10 + 0.001, 3600 + np.arange(50) / 10])
    timeline = Timeline.of(bursts, 25.0)
    assert timeline.num_wanted(QWEN3) == 20
    for num_frames in (20, 10, 6):
        shown = np.array([timeline.shown_s(index) for index in timeline.spread(num_frames)])
        assert len(shown) == num_frames
        assert (shown < 10).sum() == num_frames / 2
        assert np.diff(shown[: num_frames // 2]).max() <= 5 / (num_frames / 2 - 1) + 0.1


def test_slow_parts_have_all_their_frames_where_fast_ones_are_thinned_out() -> None:
    timeline = Timeline.of(np.concatenate([np.arange(600) / 10, 60 + 5.0 * np.arange(13)]), 25.0)
    shown = [timeline.shown_s(index) for index in timeline.spread(30)]
    assert sum(time_s >= 60 for time_s in shown) == 13
    assert np.diff(shown).max() <= 5.0
    assert np.diff(shown).min() >= 3.0


@given(st.lists(st.floats(-5, 3600), min_size=1, max_size=200), st.integers(1, 300))
def test_any_times_give_frames_in_order_the_first_and_the_last_among_them(times: list[float], num_frames: int) -> None:
    timeline = Timeline.of(np.array(times), 25.0)
    indices = timeline.spread(num_frames)
    assert indices == sorted(set(indices))
    assert len(indices) <= num_frames
    assert indices[0] == 0
    assert num_frames == 1 or indices[-1] == len(timeline.times_s) - 1
    shown = [timeline.shown_s(index) for index in indices]
    assert shown == sorted(shown)
    assert shown[0] == 0


sides = st.integers(32, 3000)


@given(st.integers(2, 768), sides, sides)
def test_without_a_limit_the_size_is_the_models_own(num_frames: int, height: int, width: int) -> None:
    num_fitting, size = fit_frames(num_frames, (height, width), QWEN3, QWEN3)
    assert num_fitting == num_frames
    assert size == frame_size(num_frames, size, QWEN3, QWEN3)


@given(st.integers(2, 768), sides, sides, st.integers(256, 100_000), st.sampled_from([65_536, 1_310_720]))
def test_what_is_taken_fits(num_frames: int, height: int, width: int, max_tokens: int, max_frame_pixels: int) -> None:
    limits = msgspec.structs.replace(QWEN3, max_tokens=max_tokens, max_frame_pixels=max_frame_pixels)
    num_fitting, size = fit_frames(num_frames, (height, width), limits, limits)
    assert 2 <= num_fitting <= num_frames
    if max(height, width) <= 4 * min(height, width):  # at a strip's ends a side cannot be less than 32
        assert tokens(num_fitting, size) <= max_tokens
    if num_fitting < num_frames and num_fitting > limits.min_frames:
        full_size = frame_size(2, (height, width), limits, limits)
        # One pair more would have to be smaller than the floor, and at this size does not fit.
        least = min(MIN_PAIR_TOKENS, math.prod(full_size) // 1024)
        assert max_tokens // (math.ceil(num_fitting / 2) + 1) < least + PAIR_TEXT_TOKENS
        assert tokens(num_fitting + 2, size) > max_tokens


def test_frames_are_shrunk_before_any_is_left_out() -> None:
    roomy = msgspec.structs.replace(QWEN3, max_tokens=12_000)
    assert fit_frames(120, (360, 640), QWEN3, roomy) == (120, (320, 544))
    short = msgspec.structs.replace(QWEN3, max_tokens=6656)
    num_fitting, size = fit_frames(120, (360, 640), QWEN3, short)
    assert (num_fitting, size) == (96, (256, 480))
    # Six minutes: by the pixel budget alone each frame would be 224x96, too small to see much.
    assert fit_frames(768, (1080, 1920), QWEN3, short) == (96, (256, 480))
    shorter = msgspec.structs.replace(QWEN3, max_tokens=200)
    assert fit_frames(120, (360, 640), QWEN3, shorter)[0] == QWEN3.min_frames


@given(st.integers(2, 120), sides, sides, st.integers(256, 20_000), st.integers(65_536, 1_310_720))
def test_a_server_leaves_frames_of_that_size_as_they_are(
    manifest_limits: tuple[object, VideoSampling],
    num_frames: int,
    height: int,
    width: int,
    max_tokens: int,
    max_frame_pixels: int,
) -> None:
    if max(height, width) > 8 * min(height, width):
        return
    manifest, video = manifest_limits
    limits = msgspec.structs.replace(video, max_tokens=max_tokens, max_frame_pixels=max_frame_pixels)
    num_fitting, (height, width) = fit_frames(num_frames, (height, width), limits, limits)
    height, width = frame_size(num_fitting, (height, width), limits, limits)
    frame = np.zeros((height, width, 3), np.uint8)
    plan = MediaPlanner(manifest, ImageLimits(), max_frame_pixels).plan(
        VideoPart((frame,) * num_fitting, tuple(float(second) for second in range(num_fitting)))
    )
    assert (plan.runs[0].height, plan.runs[0].width) == (height, width)


@pytest.fixture(scope="module")
def manifest_limits(tiny_bundle: object) -> tuple[object, VideoSampling]:
    manifest = load_manifest(tiny_bundle)  # type: ignore[arg-type]
    video = manifest.video_processor
    return manifest, msgspec.structs.replace(
        QWEN3, min_pixels=video.min_pixels, max_pixels=video.max_pixels, min_frames=video.min_frames
    )
