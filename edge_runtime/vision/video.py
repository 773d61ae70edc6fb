"""A video file to its sampled, resized frames. The only file that uses OpenCV's decoder; knows nothing of the model.

Two passes (decision 55): the first reads the packets' presentation times without decoding, the second decodes up to
the last frame that is wanted and resizes frames as they are read, so that memory stays at one source frame plus the
video's pixel budget (`VideoProcessor.max_pixels` x 3 bytes). The number of frames that a file's header claims, and the
rate, are never taken for times. transformers resizes with torch's antialiased bicubic, here it is Pillow's: at most
1/255 apart per value, and 2/255 in fewer than one value of a thousand where noise is enlarged.
"""

from __future__ import annotations

import math
import os
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from edge_runtime.errors import BadImage
from edge_runtime.model.conversation import VideoPart
from edge_runtime.vision.containers import check_container
from edge_runtime.vision.image import ImageLimits, Pixels
from edge_runtime.vision.resize import resize_image
from edge_runtime.vision.sampling import PatchSizes, Timeline, VideoLimits, fit_frames, frame_size

__all__ = ["Clip", "PatchSizes", "VideoLimits", "read_video", "sample_clip", "silence_decoder"]

MAX_FRAMES = 1 << 22
"""Frames of a file at most: a day and a half at 30 frames/s, 32 MiB of times."""
_NEW_CLOCK_S = 1.0
"""Times that go back by more begin a new clock (recordings joined together); by less, they are out of order."""
_SAME_TIME_S = 1e-6
_USUAL_RATE = 25.0
_MAX_STRETCH = 4
"""Pixels more than so many times as wide as high, or as high as wide, are a mistake of the file's."""


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """The frames taken of a video file, and what was left out."""

    part: VideoPart
    num_wanted: int
    """Frames at the model's own rate, before the context was looked at."""
    num_fitting: int
    """Frames that its `max_tokens` had room for; a clip of a variable rate may not have so many that differ."""
    source_size: tuple[int, int]
    """Height and width as a viewer shows it."""
    lost_s: float = 0.0
    """Seconds at its end that give no frame: the file is damaged, or cut short."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the frames taken."""
        height, width = np.asarray(self.part.frames[0]).shape[:2]
        return height, width


def silence_decoder() -> None:
    """Keep what OpenCV and FFmpeg print of a damaged file off stderr, unless the environment asks for it.

    For a program's own process, before it opens its first video: the libraries' settings are for all of a process.
    """
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    if "OPENCV_LOG_LEVEL" not in os.environ:
        set_level = getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel  # OpenCV 4 and 5
        set_level(0)


def read_video(
    path: Path, architecture: PatchSizes, processor: VideoLimits, limits: ImageLimits | None = None
) -> VideoPart:
    """Sample the frames of a video file, resized to the size the model will see. Raises as `sample_clip`."""
    return sample_clip(path, architecture, processor, limits).part


def sample_clip(
    path: Path, architecture: PatchSizes, processor: VideoLimits, limits: ImageLimits | None = None
) -> Clip:
    """Sample the frames of a video file at `processor.fps`, or as many as fit its `max_tokens`, evenly over its time.

    A file that is damaged or cut short is used as far as it can be decoded; a single frame is taken twice. Raises
    `BadImage` for a file that is missing, is not a video, has no readable frame, or whose frames are over `limits`.
    """
    check_container(path)
    reader = _Reader(path, limits or ImageLimits())
    settings = architecture, processor
    packets = _packet_times(reader)
    clip, is_whole = _sample(reader, packets, settings)
    if is_whole:
        return clip
    # Some packets give no frame: the file is damaged, or a codec's or an edit list's own business. Count only frames.
    decoded = _frame_times(reader)
    clip, _ = _sample(reader, decoded, settings)
    if not clip.part.frames:
        raise BadImage(f"no frame of {path} can be decoded; the file is damaged")
    lost_s = float(packets.times_s[-1] - decoded.times_s[-1])
    return replace(clip, lost_s=lost_s if lost_s > 1.5 * packets.step_s else 0.0)


@dataclass(frozen=True, slots=True)
class _Reader:
    """Opens a file for OpenCV, as often as needed."""

    path: Path
    limits: ImageLimits

    @contextmanager
    def open(self) -> Iterator[cv2.VideoCapture]:
        """Raises `BadImage` if OpenCV cannot open it, or its header already says that its frames are too large."""
        # An absolute path is never taken for a protocol; other back ends take a `%` in it for numbered pictures.
        backends = cv2.videoio_registry.getStreamBackends()
        backend = cv2.CAP_FFMPEG if cv2.CAP_FFMPEG in backends else cv2.CAP_ANY
        capture = cv2.VideoCapture(str(self.path.absolute()), backend)
        try:
            if not capture.isOpened():
                raise self._unopened()
            self.check_size(int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)), int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)))
            yield capture
        finally:
            capture.release()

    def check_size(self, height: int, width: int) -> None:
        """Raise `BadImage` for frames over the limit."""
        if height * width > self.limits.max_source_pixels:
            allowed = self.limits.max_source_pixels
            raise BadImage(f"{self.path} has frames of {width}x{height}; at most {allowed:,} pixels are accepted")

    def _unopened(self) -> BadImage:
        return BadImage(f"{self.path} is not a video that OpenCV can open; convert it to MP4 (H.264) or AVI (MJPEG)")


def _packet_times(reader: _Reader) -> Timeline:
    """The presentation times that the file itself gives its frames; nothing is decoded."""
    with reader.open() as capture:
        if not capture.set(cv2.CAP_PROP_FORMAT, -1):  # packets as they are: FFmpeg's back end only
            return _frame_times(reader)
        times = array("d")
        latest = -math.inf
        while capture.grab() and len(times) <= MAX_FRAMES:
            times.append(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
            latest = max(latest, times[-1])
            # Packets come in the order of decoding, so a little back and forth is as it should be.
            if times[-1] < latest - _NEW_CLOCK_S:
                return _frame_times(reader)
        return _timeline(reader, times, _rate(capture))


def _frame_times(reader: _Reader) -> Timeline:
    """The presentation times of the frames that can be decoded: as exact as it gets, and as slow."""
    with reader.open() as capture:
        times = array("d")
        for time_s in _shown(capture):
            times.append(time_s)
            if len(times) > MAX_FRAMES:
                break
        return _timeline(reader, times, _rate(capture))


def _timeline(reader: _Reader, times: array[float], rate: float) -> Timeline:
    if not times:
        raise BadImage(f"no frame of {reader.path} can be decoded; the file is damaged, or has no pictures")
    if len(times) > MAX_FRAMES:
        raise BadImage(f"{reader.path} has more than {MAX_FRAMES:,} frames; cut out the part that matters")
    return Timeline.of(np.asarray(times), rate)


def _shown(capture: cv2.VideoCapture) -> Iterator[float]:
    """Grab frame after frame, and give the time in seconds at which each is shown; it never goes back."""
    latest, offset = -math.inf, 0.0
    while capture.grab():
        time_s = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000 + offset
        if time_s < latest - _NEW_CLOCK_S:
            step = latest + 1 / _rate(capture) - time_s
            offset, time_s = offset + step, time_s + step
        latest = max(latest, time_s)
        yield latest


def _rate(capture: cv2.VideoCapture) -> float:
    """Frames per second as the header has it, where that can be; what follows must be right without it."""
    rate = float(capture.get(cv2.CAP_PROP_FPS))
    return rate if math.isfinite(rate) and rate > 0 else _USUAL_RATE


def _sample(reader: _Reader, timeline: Timeline, settings: tuple[PatchSizes, VideoLimits]) -> tuple[Clip, bool]:
    """The clip of the frames of `timeline` up to the first that cannot be decoded; and whether all could be."""
    architecture, processor = settings
    depth, num_wanted = architecture.temporal_patch_size, timeline.num_wanted(processor)
    sides = _first_sides(reader)
    num_frames, size = fit_frames(max(num_wanted, depth), sides, architecture, processor)
    indices = timeline.spread(num_frames)
    size = frame_size(max(len(indices), depth), size, architecture, processor)
    frames = [resize_image(frame, *size) for frame in _frames_at(reader, timeline, indices)]
    times = [timeline.shown_s(index) for index in indices[: len(frames)]]
    repeats = depth if len(frames) == 1 else 1
    part = VideoPart(tuple(frames * repeats), tuple(times * repeats))
    return Clip(part, num_wanted, num_frames, sides), len(frames) == len(indices)


def _first_sides(reader: _Reader) -> tuple[int, int]:
    """Height and width of the first frame as a viewer shows it: upright, and its pixels as wide as the file says."""
    with reader.open() as capture:
        while capture.grab():
            read, frame = capture.retrieve()  # its sides, not the header's: OpenCV turns what a phone held upright
            if read:
                height, width = frame.shape[:2]
                wide, high = capture.get(cv2.CAP_PROP_SAR_NUM), capture.get(cv2.CAP_PROP_SAR_DEN)
                if not (wide > 0 and high > 0 and 1 / _MAX_STRETCH < wide / high < _MAX_STRETCH):
                    return height, width
                if capture.get(cv2.CAP_PROP_ORIENTATION_META) % 180 == 0:
                    return height, round(width * wide / high)
                return round(height * wide / high), width
    raise BadImage(f"no frame of {reader.path} can be decoded; the file is damaged")


def _frames_at(reader: _Reader, timeline: Timeline, indices: Sequence[int]) -> Iterator[Pixels]:
    """The frames of those indices (ascending) as RGB; fewer where some cannot be decoded.

    Frames in between are grabbed without conversion; seeking would be inexact in many containers.
    """
    wanted = [float(timeline.times_s[index]) for index in indices]
    with reader.open() as capture:
        for time_s in _shown(capture):
            if time_s < wanted[0] - _SAME_TIME_S:
                continue
            read, bgr = capture.retrieve()
            if not read or time_s > wanted[0] + _SAME_TIME_S:
                return
            reader.check_size(bgr.shape[0], bgr.shape[1])
            yield np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), dtype=np.uint8)
            del wanted[0]
            if not wanted:
                return
