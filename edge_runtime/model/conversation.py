"""What a caller says to the model: messages made of text, images and video. Knows nothing of tokens or pixels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class TextPart:
    """A run of plain text."""

    text: str


@dataclass(frozen=True, slots=True, eq=False)
class ImagePart:
    """One image: an encoded file (PNG, JPEG, WEBP, BMP, GIF) or decoded pixels, uint8 [H, W, 3] RGB.

    `max_pixels` and `min_pixels` narrow the bundle's own limits for this image only.
    """

    data: bytes | NDArray[np.uint8]
    min_pixels: int | None = None
    max_pixels: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class VideoPart:
    """A video as its sampled frames, oldest first, each as in `ImagePart.data`, with times in seconds.

    The frames are used as given; sampling them from a file is `edge_runtime.vision.video`'s work.
    """

    frames: tuple[bytes | NDArray[np.uint8], ...]
    timestamps_s: tuple[float, ...]


Part = TextPart | ImagePart | VideoPart


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat."""

    role: Role
    content: tuple[Part, ...]


def media_parts(messages: tuple[Message, ...]) -> Iterator[ImagePart | VideoPart]:
    """The images and videos of a chat in prompt order."""
    for message in messages:
        for part in message.content:
            if not isinstance(part, TextPart):
                yield part
