"""One encoded picture to an upright RGB image of Pillow's, within limits. Knows no numpy: the decoding process is lean.

Pixels equal what transformers' `load_image` and qwen-vl-utils give: EXIF orientation applied, transparency blended on
white, palettes and grey expanded, CMYK converted without its colour profile. Two places differ on purpose: 16-bit grey
is scaled to 8 bits (Pillow would clip it to white), and a damaged EXIF block is ignored. Of an animation the first
frame is used. Decision 52 says what is read of damaged files.
"""

from __future__ import annotations

import errno
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO

from PIL import BmpImagePlugin, GifImagePlugin, Image, ImageFile, PngImagePlugin, WebPImagePlugin

from edge_runtime.errors import BadImage, EdgeError, Overloaded
from edge_runtime.vision.headers import PNG_SIGNATURE, Header, ImageLimits, png_chunks, read_header, too_large
from edge_runtime.vision.jpeg import load_jpeg, outline

_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_OPENERS: dict[str, Callable[[BytesIO], ImageFile.ImageFile]] = {
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "GIF": GifImagePlugin.GifImageFile,
}
SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN})
"""Errors of a system that has run short of something, which says nothing of the picture."""
_WHITE = (255, 255, 255)
_ROWS = 256
_PNG_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"IDAT")
_BYTES_PER_PIXEL = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2}
"""Of Pillow's images; those of all other modes have four."""


def decode_picture(data: bytes, limits: ImageLimits, target: tuple[int, int] | None = None) -> Image.Image:
    """The upright RGB picture in full size.

    `target` is the height and width it will be resized to, which counts in the memory it may take. A JPEG that would
    take more than `limits.max_decode_bytes` is decoded at a half, a quarter or an eighth of its sides where that is
    still no smaller than `target`. Raises `BadImage` for whatever cannot be decoded, or not within the limits.
    """
    header = read_header(data, limits)
    height, width = header.upright_size
    goal = (height, width) if target is None else target
    with refusals(f"the {header.format} image"):
        if header.format == "JPEG":
            image = _jpeg(data, header, limits, goal)
        else:
            image = _opened(data, header)
            _check_memory(image, header, goal, limits, len(data))
            image = _loaded(image, data, header)
        rgb = to_rgb(image)
        del image  # its memory counts no more
        return upright(rgb, header.orientation)


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """`image` turned as its EXIF orientation says."""
    turn = _TRANSPOSE.get(orientation)
    return image if turn is None else image.transpose(turn)


def resized(image: Image.Image, height: int, width: int) -> Image.Image:
    """`image` at another size, bicubic with antialiasing, as transformers' slow image processor does it."""
    return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BICUBIC)


@contextmanager
def refusals(what: str) -> Iterator[None]:
    """Whatever a decoder raises on damaged data becomes `BadImage`; what is not the picture's fault is `Overloaded`."""
    try:
        yield
    except (EdgeError, MemoryError):
        raise
    except Exception as error:  # Pillow's decoders are written in many hands, and raise as many types
        if isinstance(error, OSError) and error.errno in SHORTAGES:
            raise Overloaded(f"{what} cannot be decoded now: {error.strerror}; try again later") from error
        raise BadImage(
            f"{what} is damaged or cut short: {str(error) or type(error).__name__}; send the whole file"
        ) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode in RGB, transparency blended on white."""
    if image.mode.startswith("I"):
        return _grey_in_8_bits(image)
    if image.has_transparency_data and not _is_falsely_transparent(image):
        return _on_white(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _grey_in_8_bits(image: Image.Image) -> Image.Image:
    """16-bit grey, or `I` where Pillow widens it, by its high byte; a transparent value becomes white."""
    wide = image.convert("I")
    grey = wide.point(lambda value: value * (1 / 256)).convert("L")
    see_through = image.info.get("transparency")
    if isinstance(see_through, int) and 0 <= see_through <= 0xFFFF:
        mask = wide.point([255 * (value == see_through) for value in range(0x10000)], "L")
        grey.paste(255, mask=mask)
    return grey.convert("RGB")


def _is_falsely_transparent(image: Image.Image) -> bool:
    """A BMP whose alpha is zero throughout: programs that know no alpha leave it so, and viewers show the colours."""
    return image.format == "BMP" and image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0)


def _on_white(image: Image.Image) -> Image.Image:
    """In strips, so that no second copy with alpha is made of an image that has it in another form."""
    white = Image.new("RGB", image.size, _WHITE)
    for top in range(0, image.height, _ROWS):
        strip = image.crop((0, top, image.width, min(top + _ROWS, image.height)))
        if strip.mode == "La":  # Pillow has no way from here to RGBA
            strip = strip.convert("LA")
        if strip.mode != "RGBA":
            strip = strip.convert("RGBA")
        white.paste(strip, (0, top), strip)
    return white


def _jpeg(data: bytes, header: Header, limits: ImageLimits, goal: tuple[int, int]) -> Image.Image:
    """The largest scale that fits memory: all of it wherever that does."""
    found = outline(data)
    height, width = header.upright_size
    coefficients = 2 * 3 * header.width * header.height if found.num_scans > 1 else 0
    needed = 0
    for scale in (1, 2, 4, 8):
        if scale > 1 and (height // scale < goal[0] or width // scale < goal[1]):
            break
        size = -(-header.width // scale), -(-header.height // scale)
        needed = coefficients + 2 * len(data) + _working_bytes(size, header, goal, 4, converts=False)
        if needed <= limits.max_decode_bytes:
            image = load_jpeg(data, scale)
            _check_promise(image, size, header)
            return image
    raise too_large(header, needed, limits)


def _opened(data: bytes, header: Header) -> Image.Image:
    try:
        image = _OPENERS[header.format](BytesIO(data))
    except MemoryError:
        raise
    except Exception:
        mended = _mended(data, header)
        if mended == data:
            raise
        image = _OPENERS[header.format](BytesIO(mended))
    _check_promise(image, (header.width, header.height), header)
    if header.format == "PNG":
        _scale_transparency(image, data)
    return image


def _loaded(image: Image.Image, data: bytes, header: Header) -> Image.Image:
    try:
        image.load()
    except MemoryError:
        raise
    except Exception:
        mended = _mended(data, header)
        if mended == data:
            raise
        image = _opened(mended, header)
        image.load()
    return image


def _mended(data: bytes, header: Header) -> bytes:
    """A PNG file of the pieces that make its pixels: all else, damaged or not, is left away; the end is put there."""
    if header.format != "PNG":
        return data
    parts = [PNG_SIGNATURE]
    for kind, start, length in png_chunks(data):
        if kind == b"IEND":
            break
        if kind not in _PNG_KEPT:
            continue
        body, checksum = data[start : start + length], data[start + length : start + length + 4]
        if kind == b"tRNS" and (not body or checksum != struct.pack(">I", zlib.crc32(kind + body))):
            continue
        if len(checksum) < 4:  # the file ends here; whether enough of the pixels is there is the decoder's to say
            checksum = struct.pack(">I", zlib.crc32(kind + body))
        parts.append(struct.pack(">I", len(body)) + kind + body + checksum)
    parts.append(b"\0\0\0\0IEND\xaeB`\x82")
    return b"".join(parts)


def _scale_transparency(image: Image.Image, data: bytes) -> None:
    """A see-through colour is told in the depth of the file; Pillow compares it with 8 bits."""
    see_through, depth = image.info.get("transparency"), data[24]
    if isinstance(see_through, int) and image.mode in ("1", "L"):
        most = (1 << min(depth, 8)) - 1
        image.info["transparency"] = (see_through & most) * 255 // most
    elif isinstance(see_through, tuple) and depth == 16:
        image.info["transparency"] = tuple(value >> 8 for value in see_through)


def _check_promise(image: Image.Image, size: tuple[int, int], header: Header) -> None:
    if image.size != size:
        raise BadImage(
            f"the {header.format} image says it is {header.width}x{header.height}, but holds another picture of "
            f"{image.width}x{image.height}; save it again"
        )


def _check_memory(
    image: Image.Image, header: Header, goal: tuple[int, int], limits: ImageLimits, num_bytes: int
) -> None:
    """Raise `BadImage` if decoding would take more memory than the plan has for it."""
    converts = image.mode != "RGB"
    extra = 12 if header.format == "WEBP" else 4 if header.format == "BMP" else 0  # canvases; unpacked runs
    per_pixel = _BYTES_PER_PIXEL.get(image.mode, 4) + extra
    needed = num_bytes + _working_bytes(image.size, header, goal, per_pixel, converts=converts)
    if needed > limits.max_decode_bytes:
        raise too_large(header, needed, limits)


def _working_bytes(
    size: tuple[int, int], header: Header, goal: tuple[int, int], per_pixel: int, *, converts: bool
) -> int:
    """The most that is held at one time: decoded, and as RGB; turned; or half resized, and resized."""
    pixels = size[0] * size[1]
    height = size[0] if header.upright_size[0] == header.width else size[1]
    resizing = 4 * pixels + 4 * goal[1] * height + 7 * goal[0] * goal[1]
    turning = 8 * pixels if header.orientation in _TRANSPOSE else 0
    return max(pixels * (per_pixel + (4 if converts else 0)), turning, resizing)
