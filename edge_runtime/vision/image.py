"""Pictures to RGB pixels as numpy arrays, and their size without decoding. Knows nothing of resizing or of the model.

The rules are those of `headers` and `pictures`; this file puts arrays around them, and takes what callers hold.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, JpegImagePlugin

from edge_runtime.errors import BadImage, Overloaded
from edge_runtime.model.conversation import Picture
from edge_runtime.vision.headers import FORMATS, ImageLimits, check_size, read_header
from edge_runtime.vision.pictures import decode_picture, refusals, to_rgb, upright

__all__ = [
    "FORMATS",
    "ImageLimits",
    "Pixels",
    "check_array",
    "decode_image",
    "encoded",
    "image_size",
    "pil_pixels",
    "shortages",
]

Pixels = NDArray[np.uint8]
"""uint8 [height, width, 3] RGB."""


def image_size(data: Picture, limits: ImageLimits) -> tuple[int, int]:
    """Height and width in pixels as `decode_image` will give them, read from the header alone.

    Raises `BadImage` for anything that is not an image of a known format, or is over a limit.
    """
    if isinstance(data, np.ndarray):
        check_array(data, limits)
        return data.shape[0], data.shape[1]
    return read_header(encoded(data), limits).upright_size


def decode_image(data: bytes | Pixels, limits: ImageLimits) -> Pixels:
    """The pixels of an encoded image, or a checked array as it is: uint8 [height, width, 3] RGB.

    In this process: what comes from strangers goes to `PictureDecoder`. Raises `BadImage` as `image_size` does, and
    for data that is truncated or damaged; `Overloaded` where this machine has no memory or descriptors left.
    """
    if isinstance(data, np.ndarray):
        check_array(data, limits)
        return data
    with shortages():
        return np.asarray(decode_picture(encoded(data), limits))


def pil_pixels(image: Image.Image, limits: ImageLimits | None = None) -> Pixels:
    """The pixels of a PIL image of any mode, read from its file if it was not yet: what its bytes would give.

    Raises `BadImage` if that file is damaged or cut short, or the image has no or too many pixels.
    """
    limits = limits or ImageLimits()
    check_size(image.height, image.width, limits)
    with shortages(), refusals(f"the {image.format or 'PIL'} image"):
        try:
            image.load()
        except OSError:
            source = getattr(image, "fp", None)
            if not isinstance(image, JpegImagePlugin.JpegImageFile) or source is None:
                raise
            source.seek(0)
            return decode_image(source.read(), limits)
        return np.asarray(upright(to_rgb(image), _orientation(image)))


@contextmanager
def shortages() -> Iterator[None]:
    """No memory for a picture that the limits admit says nothing of the picture: `Overloaded`, which is retryable."""
    try:
        yield
    except MemoryError as error:
        raise Overloaded("no memory for the pixels of an image now; try again later, or send it smaller") from error


def encoded(data: object) -> bytes:
    """`data` as the bytes of a file. Raises `BadImage` for anything else."""
    if isinstance(data, bytes):
        return data
    if isinstance(data, (bytearray, memoryview)):
        return bytes(data)
    raise BadImage(f"an image must be bytes or a numpy array, got {type(data).__name__}")


def check_array(pixels: Pixels, limits: ImageLimits) -> None:
    """Raise `BadImage` unless `pixels` is uint8 [height, width, 3] within the limits."""
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise BadImage(
            f"an image array must be uint8 [height, width, 3] RGB, got {pixels.dtype} {list(pixels.shape)}; convert it"
        )
    check_size(pixels.shape[0], pixels.shape[1], limits)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation of a PIL image; 1 where it has none or a damaged one."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except (OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, struct.error):
        return 1
