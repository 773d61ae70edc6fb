"""Pictures as callers have them, to what a message carries: an encoded file as it is, or raw RGB. Knows no sockets.

Encoded files travel untouched and are decoded by the server, so that there is one decoder and one set of rules.
Pixels travel raw: between two processes of one machine a copy is many times cheaper than making and reading a PNG.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from edge_runtime.errors import BadImage
from edge_runtime.model.conversation import ImagePart, Message, TextPart

ImageSource = str | Path | bytes | NDArray[np.uint8] | Image.Image
"""A path, the bytes of a PNG, JPEG, WEBP or BMP file, uint8 [H, W, 3] RGB, or a PIL image."""


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
        upright = ImageOps.exif_transpose(source)
        if upright.mode == "RGB":
            return np.asarray(upright)
        # The server's decoder knows what to do with alpha, palettes and 16 bits; PNG carries them all but CMYK & co.
        if upright.mode not in ("1", "L", "LA", "I", "I;16", "P", "RGBA"):
            return np.asarray(upright.convert("RGB"))
        encoded = io.BytesIO()
        upright.save(encoded, "PNG", compress_level=1)
        return encoded.getvalue()
    raise BadImage(f"{type(source).__name__} is not an image; wanted a path, bytes, uint8 [H, W, 3] or a PIL image")


def question(prompt: str, images: Sequence[ImageSource] = ()) -> tuple[Message, ...]:
    """A chat of one turn: the images in order, then the prompt. Raises `BadImage` as `image_part` does."""
    return (Message("user", (*(image_part(image) for image in images), TextPart(prompt))),)
