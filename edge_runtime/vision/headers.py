"""Format, size and orientation of an encoded picture, from its header alone. Knows no pixels, and uses no Pillow.

Pillow reads a header by keeping, unpacking and allocating whatever it promises: every metadata block, and for a WEBP
two canvases. Here nothing is kept and every loop is bounded, so that headers can be read in the server's own process.
What this module says holds: the decoder refuses a picture whose pixels turn out to be of another size.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

from edge_runtime.errors import BadImage
from edge_runtime.vision.orientation import PROFILES, exif_orientation, profile_orientation, xmp_orientation

_Kind = TypeVar("_Kind", bytes, int)
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_BLOCKS = 20_000
"""Chunks or segments of a header that are looked at; cameras write some dozens."""
_JPEG_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_MARKER = re.compile(rb"\xff([\x02-\xcf\xd9-\xfe])")
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_SWAPS_SIDES = frozenset({5, 6, 7, 8})
_FOREIGN = {
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"\0\0\1\0": "ICO",
    b"%PDF": "PDF",
    b"8BPS": "Photoshop",
    b"<svg": "SVG",
    b"<?xm": "SVG or other XML",
}
_BRANDS = {
    b"avif": "AVIF",
    b"heic": "HEIC",
    b"heix": "HEIC",
    b"mif1": "HEIC",
    b"isom": "MP4 video",
    b"mp42": "MP4 video",
}


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What is refused before any pixel is decoded, and what decoding may take."""

    max_bytes: int = 64 * 1024 * 1024
    max_source_pixels: int = 8192 * 8192
    max_decode_bytes: int = 1344 * 1024 * 1024
    """Memory for one picture while it is decoded, turned, converted and resized; the default takes any within the
    other two limits. The planner sets it (`MemoryPlan.decoding_bytes`)."""


@dataclass(frozen=True, slots=True)
class Header:
    """What the first bytes of a file say of it. `width` and `height` are those stored, before it is turned upright."""

    format: str
    width: int
    height: int
    orientation: int
    """EXIF orientation 1..8; 1 where there is none or the block is damaged."""

    @property
    def upright_size(self) -> tuple[int, int]:
        """Height and width once turned upright."""
        return (self.width, self.height) if self.orientation in _SWAPS_SIDES else (self.height, self.width)


def read_header(data: bytes, limits: ImageLimits) -> Header:
    """The header of an encoded picture. Raises `BadImage` for no picture, an unknown format, or one over a limit."""
    if len(data) == 0:
        raise BadImage("the image has no bytes")
    if len(data) > limits.max_bytes:
        raise BadImage(
            f"the image file has {len(data)} bytes, at most {limits.max_bytes} are accepted; send it smaller"
        )
    try:
        if data.startswith(PNG_SIGNATURE):
            header = _png(data)
        elif data.startswith(b"\xff\xd8\xff"):
            header = _jpeg(data)
        elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            header = _webp(data)
        elif data.startswith(b"BM"):
            header = _bmp(data)
        elif data.startswith((b"GIF87a", b"GIF89a")):
            header = _gif(data)
        else:
            raise BadImage(f"{_described(data)}; send one of {', '.join(FORMATS)}")
    except IndexError:
        raise BadImage("the image ends inside its header; send the whole file") from None
    check_size(header.height, header.width, limits)
    least = 4 * header.height * header.width // (64 if header.format == "JPEG" else 1)
    if least > limits.max_decode_bytes:
        raise too_large(header, least, limits)
    return header


def check_size(height: int, width: int, limits: ImageLimits) -> None:
    """Raise `BadImage` if a picture has no pixels or too many."""
    if height < 1 or width < 1:
        raise BadImage(f"the image is {width}x{height}: it has no pixels")
    if height * width > limits.max_source_pixels:
        raise BadImage(
            f"the image is {width}x{height}, {height * width} pixels; at most {limits.max_source_pixels} are accepted "
            "before decoding; send it smaller"
        )


def too_large(header: Header, needed: int, limits: ImageLimits) -> BadImage:
    """What to say of a picture that would take `needed` bytes while it is decoded."""
    return BadImage(
        f"the {header.width}x{header.height} {header.format} image takes {needed // 2**20 + 1} MiB to decode, and the "
        f"memory plan has {limits.max_decode_bytes // 2**20} MiB for that; send it smaller, or give the runtime more "
        "memory"
    )


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(type, start, length as stated) of the chunks of a PNG file, the last of them perhaps cut short."""
    position = len(PNG_SIGNATURE)
    while position + 8 <= len(data):
        length = _number(data, position, 4)
        yield data[position + 4 : position + 8], position + 8, length
        position += 12 + length


def _png(data: bytes) -> Header:
    if data[12:16] != b"IHDR":
        raise BadImage("the PNG file does not begin with its header (IHDR); send the whole file")
    width, height = _number(data, 16, 4), _number(data, 20, 4)
    found: dict[bytes, int | None] = {}
    for kind, start, length in _bounded(png_chunks(data)):
        if kind in (b"IDAT", b"IEND"):
            break
        if kind == b"eXIf" and kind not in found:
            found[kind] = exif_orientation(data[start : start + length])
        elif data.startswith(PROFILES, start) and kind in (b"zTXt", b"iTXt", b"tEXt") and kind not in found:
            found[kind] = profile_orientation(kind, data[start : start + length])
    order = (b"eXIf", b"zTXt", b"tEXt", b"iTXt")
    return Header("PNG", width, height, next((found[kind] or 1 for kind in order if found.get(kind)), 1))


def _jpeg(data: bytes) -> Header:
    found: dict[str, int | None] = {}
    size: tuple[int, int] | None = None
    for marker, start, stop in _bounded(_jpeg_segments(data)):
        if marker in (_START_OF_SCAN, _END_OF_IMAGE):
            break
        if marker in _JPEG_SIZES:
            size = _number(data, start + 3, 2), _number(data, start + 1, 2)
        elif marker == 0xE1 and data.startswith(b"Exif\0\0", start) and "exif" not in found:
            found["exif"] = exif_orientation(data[start:stop])
        elif marker == 0xE1 and data.startswith(b"http://ns.adobe.com/xap/1.0/\0", start):
            found["xmp"] = xmp_orientation(data[start:stop])
    if size is None:
        raise BadImage("the JPEG file ends before it says its size; send the whole file")
    return Header("JPEG", *size, found.get("exif") or found.get("xmp") or 1)


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, stop) of the segments before the pixels, past junk between them as decoders go."""
    position = 2
    while match := _JPEG_MARKER.search(data, position):
        marker, position = match[1][0], match.end()
        length = 2 if marker == _END_OF_IMAGE else max(_number(data, position, 2), 2)
        yield marker, position + 2, position + length
        position += length


def _webp(data: bytes) -> Header:
    kind = data[12:16]
    if kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        return Header("WEBP", _little(data, 26, 2) & 0x3FFF, _little(data, 28, 2) & 0x3FFF, 1)
    if kind == b"VP8L" and data[20] == 0x2F:
        bits = _little(data, 21, 4)
        return Header("WEBP", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, 1)
    if kind != b"VP8X":
        raise BadImage("the WEBP file begins with no picture; send the whole file")
    found: dict[bytes, int | None] = {}
    for kind, start, stop in _bounded(_riff_chunks(data)):
        if kind == b"EXIF" and kind not in found:
            found[kind] = exif_orientation(data[start:stop])
        elif kind == b"XMP " and kind not in found:
            found[kind] = xmp_orientation(data[start:stop])
    orientation = found.get(b"EXIF") or found.get(b"XMP ") or 1
    return Header("WEBP", _little(data, 24, 3) + 1, _little(data, 27, 3) + 1, orientation)


def _riff_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    position = 12
    while position + 8 <= len(data):
        length = _little(data, position + 4, 4)
        yield data[position : position + 4], position + 8, position + 8 + length
        position += 8 + length + length % 2


def _bmp(data: bytes) -> Header:
    if _little(data, 14, 4) == 12:
        return Header("BMP", _little(data, 18, 2), _little(data, 20, 2), 1)
    height = _little(data, 22, 4)
    # Rows from the top are told by a negative height, and by Pillow from its highest byte.
    return Header("BMP", _little(data, 18, 4), 2**32 - height if data[25] == 0xFF else height, 1)


def _gif(data: bytes) -> Header:
    """The canvas, or the first frame where that reaches beyond it, as Pillow and browsers have it."""
    width, height = _little(data, 6, 2), _little(data, 8, 2)
    position = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    inside = False  # the sub-blocks of an extension
    for _ in range(MAX_BLOCKS):
        if inside:
            inside = data[position] != 0
            position += 1 + data[position]
        elif data[position] == 0x2C:
            left, top, wide, high = (_little(data, position + at, 2) for at in (1, 3, 5, 7))
            return Header("GIF", max(width, left + wide), max(height, top + high), 1)
        elif data[position] == 0x3B:
            raise BadImage("the GIF file has no picture in it")
        else:
            inside = data[position] == 0x21
            position += 2 if inside else 1
    raise BadImage(f"the GIF file has more than {MAX_BLOCKS} blocks before its first picture; save it again")


def _bounded(blocks: Iterator[tuple[_Kind, int, int]]) -> Iterator[tuple[_Kind, int, int]]:
    for count, block in enumerate(blocks):
        if count >= MAX_BLOCKS:
            raise BadImage(f"the image has more than {MAX_BLOCKS} blocks of metadata; save it without them")
        yield block


def _number(data: bytes, position: int, size: int) -> int:
    """A big-endian number. Raises `IndexError` where the file ends before it does."""
    if position + size > len(data):
        raise IndexError
    return int.from_bytes(data[position : position + size], "big")


def _little(data: bytes, position: int, size: int) -> int:
    """A little-endian number. Raises `IndexError` where the file ends before it does."""
    if position + size > len(data):
        raise IndexError
    return int.from_bytes(data[position : position + size], "little")


def _described(data: bytes) -> str:
    """What the bytes are, where that is easily told."""
    name = _FOREIGN.get(data[:4]) or (_BRANDS.get(data[8:12], "ISO media") if data[4:8] == b"ftyp" else None)
    return f"this is a {name} file, which is not read" if name else "not an image this runtime reads"
