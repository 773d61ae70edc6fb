"""How a picture is to be turned, from its EXIF or XMP block. Knows no file formats, only the blocks.

Read as Pillow's `getexif` does, but only this one value: nothing else of a block is unpacked or kept.
"""

from __future__ import annotations

import re
import zlib

PROFILES = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")
"""How PNG text chunks begin that may say it."""
_ORIENTATION = 0x0112
_INTEGER_SIZES = {1: 1, 3: 2, 4: 4}
"""TIFF types BYTE, SHORT, LONG."""
_XMP = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')
_MAX_UNPACKED = 1 << 20


def exif_orientation(block: bytes) -> int | None:
    """EXIF orientation 1..8 of a block, or None where it says none or is damaged."""
    while block.startswith(b"Exif\0\0"):
        block = block[6:]
    order = {b"II": "little", b"MM": "big"}.get(block[:2])
    if order is None:
        return None

    def number(position: int, size: int) -> int:
        return int.from_bytes(block[position : position + size], "little" if order == "little" else "big")

    first = number(4, 4)
    for entry in range(first + 2, first + 2 + 12 * number(first, 2), 12):
        if entry + 12 > len(block):
            return None
        if number(entry, 2) == _ORIENTATION:
            size = _INTEGER_SIZES.get(number(entry + 2, 2))
            value = number(entry + 8, size) if size and number(entry + 4, 4) == 1 else 0
            return value if 1 <= value <= 8 else None
    return None


def xmp_orientation(block: bytes) -> int | None:
    """The same of an XMP block."""
    found = _XMP.search(block)
    return int(found[1]) if found else None


def profile_orientation(kind: bytes, chunk: bytes) -> int | None:
    """The same of a PNG text chunk: XMP, or EXIF in hexadecimal as ImageMagick writes it."""
    keyword, _, rest = chunk.partition(b"\0")
    if keyword == PROFILES[0][:-1] and kind == b"iTXt":
        packed, rest = rest[:1] == b"\1", rest[2:]
        text = rest.split(b"\0", 2)[-1]
        return xmp_orientation(_unpacked(text) if packed else text)
    if keyword == PROFILES[1][:-1] and kind in (b"zTXt", b"tEXt"):
        text = _unpacked(rest[1:]) if kind == b"zTXt" else rest
        try:
            return exif_orientation(bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode("latin-1")))
        except ValueError:
            return None
    return None


def _unpacked(data: bytes) -> bytes:
    """At most a mebibyte of what a compressed block holds; nothing where it is damaged."""
    try:
        return zlib.decompressobj().decompress(data, _MAX_UNPACKED)
    except zlib.error:
        return b""
