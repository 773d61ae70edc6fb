"""Pictures as callers have them, to what a message carries: an encoded file as it is, or raw RGB. Knows no sockets.

Encoded files travel untouched and are decoded by the server, so that there is one decoder and one set of rules.
Pixels travel raw: between two processes of one machine a copy is many times cheaper than making and reading a PNG.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edge_runtime.errors import BadImage
from edge_runtime.model.conversation import ImagePart, Message, TextPart
from edge_runtime.vision.image import pil_pixels

ImageSource = str | Path | bytes | NDArray[np.uint8] | Image.Image
"""A path, the bytes of a PNG, JPEG, WEBP, BMP or GIF file, uint8 [H, W, 3] RGB, or a PIL image."""


def image_part(source: ImageSource, *, min_pixels: int | None = None, max_pixels: int | None = None) -> ImagePart:
    """`source` as a part of a message. Raises `BadImage` if it cannot be read or is of another type."""
    return ImagePart(_picture(source), min_pixels, max_pixels)


def _picture(source: ImageSource) -> bytes | NDArray[np.uint8]:
    if isinstance(source, (bytes, np.ndarray)):
        return source
    if isinstance(source, (str, Path)):
        try:
            return Path(source).read_bytes()
        except OSError as error:
            raise BadImage(f"cannot read the image {source}: {error.strerror}") from error
    if isinstance(source, Image.Image):
        return pil_pixels(source)
    raise BadImage(f"{type(source).__name__} is not an image; wanted a path, bytes, uint8 [H, W, 3] or a PIL image")


def question(prompt: str, images: Sequence[ImageSource] = ()) -> tuple[Message, ...]:
    """A chat of one turn: the images in order, then the prompt. Raises `BadImage` as `image_part` does."""
    return (Message("user", (*(image_part(image) for image in images), TextPart(prompt))),)
