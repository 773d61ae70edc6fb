"""Encoded images to RGB pixels, and their size without decoding. Knows nothing of resizing or of the model.

Pixels equal what transformers' `load_image` gives: EXIF orientation applied, then Pillow's `convert("RGB")`, which
drops alpha (it does not blend), expands palettes and grey, and converts CMYK without its colour profile. Two places
differ on purpose: 16-bit and wider grey is scaled to 8 bits (Pillow would clip it to white), and a damaged EXIF block
is ignored instead of refused. Of an animation the first frame is used.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from io import BytesIO
from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from edge_runtime.errors import BadImage

Pixels = NDArray[np.uint8]
"""uint8 [height, width, 3] RGB."""

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
_EXIF_ORIENTATION = 0x0112
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPS_SIDES = frozenset({5, 6, 7, 8})
# What Pillow's four decoders raise on damaged files, found by fuzzing (tests/hostile/test_images_fuzz.py).
_DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    AttributeError,
    ArithmeticError,
    NotImplementedError,
    struct.error,
    zlib.error,
)


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What is refused before any pixel is decoded. The default stays below Pillow's own bomb alarm."""

    max_bytes: int = 64 * 1024 * 1024
    max_source_pixels: int = 8192 * 8192


def image_size(data: bytes | Pixels, limits: ImageLimits) -> tuple[int, int]:
    """Height and width in pixels as `decode_image` will give them, read from the header alone.

    Raises `BadImage` for anything that is not an image of a known format, or is over a limit.
    """
    if isinstance(data, np.ndarray):
        _check_array(data, limits)
        return data.shape[0], data.shape[1]
    with _open(data, limits) as image:
        width, height = image.size
        return (width, height) if _orientation(image) in _SWAPS_SIDES else (height, width)


def decode_image(data: bytes | Pixels, limits: ImageLimits) -> Pixels:
    """The pixels of an encoded image, or a checked array as it is: uint8 [height, width, 3] RGB.

    Raises `BadImage` as `image_size` does, and for data that is truncated or damaged.
    """
    if isinstance(data, np.ndarray):
        _check_array(data, limits)
        return data
    with _open(data, limits) as image:
        orientation = _orientation(image)
        try:
            image.load()
            upright = _to_rgb(image)
        except (Image.DecompressionBombError, MemoryError) as error:
            raise BadImage(f"the {image.format} image does not fit memory when decoded: {error}") from error
        except _DAMAGED as error:
            raise BadImage(f"the {image.format} image is damaged or cut short: {error}; send the whole file") from error
    if orientation in _TRANSPOSE:
        upright = upright.transpose(_TRANSPOSE[orientation])
    return np.asarray(upright)


def _open(data: bytes, limits: ImageLimits) -> Image.Image:
    """A Pillow image whose header is read and within the limits."""
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise BadImage(f"an image must be bytes or a numpy array, got {type(data).__name__}")
    if len(data) == 0:
        raise BadImage("the image has no bytes")
    if len(data) > limits.max_bytes:
        raise BadImage(
            f"the image file has {len(data)} bytes, at most {limits.max_bytes} are accepted; send it smaller"
        )
    try:
        image = Image.open(BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadImage(f"the image is refused as a decompression bomb: {error}") from error
    except UnidentifiedImageError as error:
        raise BadImage(f"not an image this runtime reads; send one of {', '.join(FORMATS)}") from error
    except _DAMAGED as error:
        raise BadImage(f"the image header is damaged: {error}; send the whole file") from error
    width, height = image.size
    _check_size(height, width, limits)
    return image


def _check_array(pixels: Pixels, limits: ImageLimits) -> None:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise BadImage(
            f"an image array must be uint8 [height, width, 3] RGB, got {pixels.dtype} {list(pixels.shape)}; convert it"
        )
    _check_size(pixels.shape[0], pixels.shape[1], limits)


def _check_size(height: int, width: int, limits: ImageLimits) -> None:
    if height < 1 or width < 1:
        raise BadImage(f"the image is {width}x{height}: it has no pixels")
    if height * width > limits.max_source_pixels:
        raise BadImage(
            f"the image is {width}x{height}, {height * width} pixels; at most {limits.max_source_pixels} are accepted "
            "before decoding; send it smaller"
        )


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8; 1 where there is none or the block is damaged."""
    try:
        # Not image.getexif(): the PNG one decodes all pixels to look for a block after them.
        return int(Image.Image.getexif(image).get(_EXIF_ORIENTATION, 1))
    except _DAMAGED:
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # I;16, I;16B, I;16L, and I where Pillow widens 16-bit grey
        grey = np.asarray(image)
        high_byte = cast("Pixels", (np.clip(grey, 0, 0xFFFF).astype(np.uint16) >> 8).astype(np.uint8))
        return Image.fromarray(high_byte).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")
