"""Clips for tests: by OpenCV where it has the codec, GIFs by Pillow; each frame shows its own number in bars."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from edge_runtime.model.conversation import VideoPart

BITS, BAR, HEIGHT = 6, 32, 96
WIDTH = BITS * BAR


def numbered(number: int) -> NDArray[np.uint8]:
    """A frame [96, 192, 3] of black and white bars, the bits of `number`."""
    bars = np.array([255 * (number >> bit & 1) for bit in range(BITS)], np.uint8)
    return np.broadcast_to(bars.repeat(BAR)[None, :, None], (HEIGHT, WIDTH, 3)).copy()


def numbers_of(part: VideoPart) -> list[int]:
    """What the frames of a clip show."""
    found = []
    for frame in part.frames:
        pixels = np.asarray(frame)
        middles = ((np.arange(BITS) + 0.5) * pixels.shape[1] / BITS).astype(int)
        bars = pixels[pixels.shape[0] // 2, middles].mean(axis=-1) > 127
        found.append(int((bars << np.arange(BITS)).sum()))
    return found


def write_clip(path: Path, num_frames: int = 60, fps: float = 10.0, codec: str = "MJPG") -> Path:
    """A clip of constant rate; skips the test where this OpenCV cannot write that codec into that container."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), fps, (WIDTH, HEIGHT))
    if not writer.isOpened():
        pytest.skip(f"this OpenCV cannot write {codec} into {path.suffix}")
    for number in range(num_frames):
        writer.write(numbered(number))
    writer.release()
    return path


def write_gif(path: Path, durations_ms: Sequence[int]) -> Path:
    """A clip whose frames are shown for so long each: any rate, and no codec is needed."""
    first, *others = (Image.fromarray(numbered(number)) for number in range(len(durations_ms)))
    first.save(path, save_all=True, append_images=others, duration=list(durations_ms), loop=0)
    return path


def mp4_box(data: bytes, *way: bytes) -> tuple[int, int]:
    """Start and end of the first box of an MP4 on that way, its header included."""
    start, end = 0, len(data)
    for depth, kind in enumerate(way):
        start, end = next(found for name, *found in _boxes(data, start + 8 * (depth > 0), end) if name == kind)
    return start, end


def _boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    while start + 8 <= end:
        size, kind = struct.unpack(">I4s", data[start : start + 8])
        yield kind, start, start + size
        start += size
