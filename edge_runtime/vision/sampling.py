"""Which frames of a clip are taken, and how large they are: arithmetic on times and sizes. Knows no files, no codecs.

At a constant rate this is transformers' `Qwen3VLVideoProcessor.sample_frames`, index for index; at a variable one the
same spread over presentation time. Where a context is too short for all frames at their size, decision 54 says what
gives way: the frames' size down to `MIN_PAIR_TOKENS`, then their number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge_runtime.families.qwen3_vl.processor import PixelRange, video_target_size

MIN_PAIR_TOKENS = 128
"""Frames are not shrunk below so many tokens a pair to fit a context (qwen-vl-utils: VIDEO_MIN_TOKEN_NUM)."""
PAIR_TEXT_TOKENS = 18
"""What a pair takes beside its pixels: "<1234.5 seconds>" where each character is a token, and the marks around it."""
_STEADY_S = 0.001 + 1e-6
"""How far a clip of constant rate may be off its rate: Matroska writes whole milliseconds, the first frame's too."""
_MAX_ROUNDS = 8


class PatchSizes(Protocol):
    """What of a `VisionArchitecture` decides the size of a frame; a server tells its clients."""

    @property
    def patch_size(self) -> int: ...  # noqa: D102

    @property
    def spatial_merge_size(self) -> int: ...  # noqa: D102

    @property
    def temporal_patch_size(self) -> int: ...  # noqa: D102


class VideoLimits(Protocol):
    """What of a `VideoProcessor` decides which frames are taken, and how large.

    Where it has `max_tokens` (of all frames) and `max_frame_pixels`, as a server's `VideoSampling` does, they hold.
    """

    @property
    def fps(self) -> float: ...  # noqa: D102

    @property
    def min_frames(self) -> int: ...  # noqa: D102

    @property
    def max_frames(self) -> int: ...  # noqa: D102

    @property
    def min_pixels(self) -> int: ...  # noqa: D102

    @property
    def max_pixels(self) -> int: ...  # noqa: D102


@dataclass(frozen=True, slots=True, eq=False)
class Timeline:
    """When the frames of a clip are shown."""

    times_s: NDArray[np.float64]
    """[N] ascending, each once, as the file has them: the first need not be 0."""
    rate: float | None
    """Frames per second where the rate is constant."""

    @classmethod
    def of(cls, times_s: NDArray[np.float64], declared_rate: float) -> Timeline:
        """The timeline of frames in any order; `declared_rate` counts only if the times bear it out."""
        times = np.unique(times_s)
        if not (math.isfinite(declared_rate) and declared_rate > 0):
            return cls(times, None)
        off = np.abs(times - times[0] - np.arange(len(times)) / declared_rate)
        return cls(times, declared_rate if off.max() <= _STEADY_S else None)

    @property
    def step_s(self) -> float:
        """Seconds from one frame to the next, on average; 0 for a single one."""
        return float(self.times_s[-1] - self.times_s[0]) / max(len(self.times_s) - 1, 1)

    def num_wanted(self, limits: VideoLimits) -> int:
        """How many frames the model would have of this clip."""
        num_frames = len(self.times_s)
        if self.rate is not None:
            duration_s = num_frames / self.rate
        else:  # a gap is worth one frame, however long; the last frame is shown as long as the others on average
            moving_s = float(np.minimum(np.diff(self.times_s), 1 / limits.fps).sum())
            duration_s = moving_s * num_frames / max(num_frames - 1, 1)
        return min(max(int(duration_s * limits.fps), limits.min_frames), limits.max_frames, num_frames)

    def spread(self, num_frames: int) -> list[int]:
        """Indices of at most so many frames, the first and the last among them, evenly spread over the time.

        Over gaps, longer than the step this makes, nothing can be spread: they are a step each.
        """
        last = len(self.times_s) - 1
        places = np.linspace(0, last, num_frames)
        if self.rate is None and 1 < num_frames <= last:
            gaps = np.diff(self.times_s)
            passed = np.concatenate(([0.0], np.cumsum(np.minimum(gaps, _even_step(gaps, num_frames - 1)))))
            places = np.interp(np.linspace(0, passed[-1], num_frames), passed, np.arange(last + 1))
        return [int(index) for index in np.unique(places.round())]

    def shown_s(self, index: int) -> float:
        """Seconds from the first frame to this one."""
        return index / self.rate if self.rate is not None else float(self.times_s[index] - self.times_s[0])


def _even_step(gaps: NDArray[np.float64], num_steps: int) -> float:
    """The step of which `num_steps` cover all `gaps` (at least as many, > 0), those longer than it being one each."""
    longest = np.sort(gaps)[::-1][:num_steps]
    taken = np.concatenate(([0.0], np.cumsum(longest)[:-1]))
    steps = (gaps.sum() - taken) / (num_steps - np.arange(num_steps))
    # With the k longest out of the way; right where the next one is no longer than the step.
    return float(steps[np.argmax(longest <= steps * (1 + 1e-9))])


def fit_frames(
    num_frames: int, sides: tuple[int, int], architecture: PatchSizes, limits: VideoLimits
) -> tuple[int, tuple[int, int]]:
    """How many of `num_frames` frames of `sides` (height, width) there is room for, and how large they can be.

    Raises `BadImage` for frames no model takes.
    """
    depth = architecture.temporal_patch_size
    size = frame_size(num_frames, sides, architecture, limits)
    room, all_pairs = getattr(limits, "max_tokens", None), math.ceil(num_frames / depth)
    cell = (architecture.patch_size * architecture.spatial_merge_size) ** 2
    if room is None or all_pairs * (math.prod(size) // cell + PAIR_TEXT_TOKENS) <= room:
        return num_frames, size
    # The floor is of a single pair: a long clip's own budget of pixels may have made thumbnails of its frames.
    least = min(MIN_PAIR_TOKENS, math.prod(frame_size(depth, sides, architecture, limits)) // cell)
    fewest = math.ceil(limits.min_frames / depth)
    pairs = min(all_pairs, max(room // (least + PAIR_TEXT_TOKENS), fewest, 1))
    each = max(room // pairs - PAIR_TEXT_TOKENS, 1) * cell
    size = frame_size(pairs * depth, sides, architecture, limits, each)
    # Sides are multiples of 32, so the frames may have come out smaller than they had to: that makes room for more.
    pairs = min(all_pairs, max(room // (math.prod(size) // cell + PAIR_TEXT_TOKENS), pairs))
    return min(num_frames, pairs * depth), size


def frame_size(
    num_frames: int,
    sides: tuple[int, int],
    architecture: PatchSizes,
    limits: VideoLimits,
    max_frame_pixels: int | None = None,
) -> tuple[int, int]:
    """The height and width of frames of `sides` after resizing; a server with these limits leaves them as they are.

    So it is the size that does not change any more: for an odd number of frames transformers' rule can shrink twice.
    """
    factor = architecture.patch_size * architecture.spatial_merge_size
    caps = [cap for cap in (max_frame_pixels, getattr(limits, "max_frame_pixels", None)) if cap is not None]
    max_pixels = min(limits.max_pixels, num_frames * min(caps)) if caps else limits.max_pixels
    allowed = PixelRange(min(limits.min_pixels, max_pixels), max_pixels)
    for _ in range(_MAX_ROUNDS):
        size = video_target_size(num_frames, *sides, factor, architecture.temporal_patch_size, allowed)
        if size == sides:
            break
        sides = size
    return sides
