"""Pictures as callers have them, to what a message carries: an encoded file as it is, or raw RGB. Knows no sockets.

Encoded files travel untouched and are decoded by the server, so that there is one decoder and one set of rules.
Pixels travel raw: between two processes of one machine a copy is many times cheaper than making and reading a PNG.
"""

from __future__ import annotations

import base64
import binascii
import re
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import unquote, unquote_to_bytes

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edge_runtime.errors import BadImage, BadParameter, BadPrompt
from edge_runtime.model.conversation import ImagePart, Message, TextPart
from edge_runtime.vision.image import pil_pixels

ImageSource = str | Path | bytes | bytearray | memoryview | NDArray[np.uint8] | Image.Image
"""A path, a `data:` URL, the bytes of a PNG, JPEG, WEBP, BMP or GIF file, a PIL image, or uint8 pixels: [H, W] or
[H, W, 1] grey, [H, W, 3] RGB, [H, W, 4] RGBA. What is transparent is blended on white."""

_WANTED = "wanted a path, a data: URL, the bytes of an image file, a PIL image or uint8 [H, W, 3] RGB"
_URL = re.compile(r"(data|file)(?=:)|([a-z][a-z0-9+.-]*)(?=://)", re.IGNORECASE)
_SHOWN = 80
"""Characters of a path that a message repeats."""


def image_part(source: ImageSource, *, min_pixels: int | None = None, max_pixels: int | None = None) -> ImagePart:
    """`source` as a part of a message. Raises `BadImage` if it cannot be read or is of another type."""
    return ImagePart(picture(source), min_pixels, max_pixels)


def question(
    prompt: str, images: ImageSource | Iterable[ImageSource] | None = None, *, system: str | None = None
) -> tuple[Message, ...]:
    """A chat of one turn: the system message if any; the images in order (or the one image), then the prompt.

    Raises `BadImage` as `image_part` does, saying which one; `BadPrompt` for a prompt that is no string.
    """
    if not isinstance(prompt, str):
        raise BadPrompt(f"the prompt is of type {type(prompt).__name__}; wanted a string, or generate() for messages")
    if images is None:
        images = ()
    elif isinstance(images, (str, Path, bytes, bytearray, memoryview, np.ndarray, Image.Image)):
        images = (images,)
    if not isinstance(images, Iterable) or isinstance(images, Mapping) or hasattr(images, "read"):  # a file has lines
        raise BadParameter(f"images is of type {type(images).__name__}; wanted a list of images")
    parts = [_numbered(number, source) for number, source in enumerate(images, 1)]
    asked = Message("user", (*parts, TextPart(prompt)))
    return (asked,) if system is None else (Message("system", system), asked)


def _numbered(number: int, source: ImageSource) -> ImagePart:
    try:
        return image_part(source)
    except BadImage as error:
        raise BadImage(f"image {number}: {error}") from error


def picture(source: object) -> bytes | NDArray[np.uint8]:
    """The bytes of an encoded file, or uint8 [H, W, 3] RGB. Raises `BadImage`."""
    if isinstance(source, np.ndarray):
        return _rgb(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source)
    if isinstance(source, str) and (url := _URL.match(source)):
        return _from_url(source, url[0].lower())
    if isinstance(source, (str, Path)):
        return _read(Path(source))
    if isinstance(source, Image.Image):
        return pil_pixels(source)
    raise BadImage(f"{type(source).__name__} is not an image; {_WANTED}")


def _from_url(source: str, scheme: str) -> bytes:
    if scheme == "data":
        head, comma, body = source.partition(",")
        try:
            if comma:
                is_base64 = head.lower().endswith(";base64")
                return (
                    base64.b64decode("".join(unquote(body).split()), validate=True)
                    if is_base64
                    else unquote_to_bytes(body)
                )
        except (binascii.Error, ValueError) as error:
            raise BadImage(f"a data: URL whose base64 is damaged: {error}") from error
        raise BadImage("a data: URL without a comma; wanted data:image/png;base64,...")
    if scheme == "file":
        return _read(Path(unquote(source.partition(":")[2].removeprefix("//"))))
    raise BadImage(f"{_short(source)} is not fetched: nothing here goes to the network; download it and give its path")


def _read(path: Path) -> bytes:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise BadImage(f"cannot read the image {_short(path)}: it is not a file")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise BadImage(f"cannot read the image {_short(path)}: {why}") from error


def _short(source: object) -> str:
    text = str(source)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters)"


def _rgb(array: NDArray[np.generic]) -> NDArray[np.uint8]:
    """uint8 [H, W, 3] of an array of pixels: grey is repeated, transparency blended on white."""
    found = f"an array of {array.dtype} {list(array.shape)} is not a picture; wanted uint8 [H, W, 3], RGB"
    if array.dtype != np.uint8:
        raise BadImage(f"{found}: {_dtype_advice(array.dtype)}")
    pixels = np.asarray(array, np.uint8)
    if pixels.ndim == 2:
        pixels = pixels[:, :, np.newaxis]
    if pixels.ndim == 4 and len(pixels) == 1:
        raise BadImage(f"{found}: this is a batch of one, give array[0]")
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4) or not pixels.size:
        is_channels_first = pixels.ndim == 3 and pixels.shape[0] in (1, 3, 4) and pixels.size
        raise BadImage(found + (": the channels come last, use array.transpose(1, 2, 0)" if is_channels_first else ""))
    if pixels.shape[2] == 1:
        return np.repeat(pixels, 3, axis=2)
    if pixels.shape[2] == 4:
        return pixels[:, :, :3] if pixels[:, :, 3].min() == 255 else pil_pixels(Image.fromarray(pixels))
    return pixels


def _dtype_advice(dtype: np.dtype[np.generic]) -> str:
    if dtype.kind == "f":
        return "if its values are from 0 to 1, use (array * 255).round().astype(np.uint8)"
    if dtype == np.uint16:
        return "if it has 16 bits, use (array >> 8).astype(np.uint8)"
    if dtype == np.bool_:
        return "use array.astype(np.uint8) * 255"
    return "use array.astype(np.uint8) if its values are from 0 to 255"
