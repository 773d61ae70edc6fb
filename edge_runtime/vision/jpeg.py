"""JPEG as cameras, phones and cut connections leave it: which pixels are there, and which are not. Knows no limits.

libjpeg waits for the end marker, and shows nothing of a progressive file, and not the last rows of others, until it
has it. If it gets one too early it fills up in grey without a word that reaches us. So where the marker is missing, the
file is decoded twice: with the marker put behind what is there, and with a few bytes of nonsense before it. A decoder
that had all it needed never looks at them; one that did not gives other pixels, and the file is refused.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass, field
from io import BytesIO

from PIL import Image, JpegImagePlugin

from edge_runtime.errors import BadImage

MAX_SCANS = 100
"""A colour picture has ten scans as libjpeg makes it, and up to some dozens optimised by hand; each costs a pass over
all pixels, so that a small file could hold hours of work. libjpeg-turbo's authors advise a limit."""

_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
"""Any marker but those inside a scan: restarts, and the escaped 0xFF."""
_SOI, _EOI, _SOS, _TEM = 0xD8, 0xD9, 0xDA, 0x01
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_END = b"\xff\xd9"
_NONSENSE = bytes(range(0xB5, 0x17, -2)) * 16
"""Begins with a one, where libjpeg makes up zeros: a single missing bit is noticed."""
_ADOBE_BYTES = 14
"""The least that decoders take for an Adobe segment, its length included."""
_ROWS = 256


@dataclass(slots=True)
class Outline:
    """The first picture of a JPEG file as its markers tell it."""

    end: int = 0
    """Where its last scan ends: at the end marker, at another picture, or where the file does."""
    closed: bool = False
    """Whether the end marker is there."""
    progressive: bool = False
    num_scans: int = 0
    refines: bool = False
    """Whether the last scan only sharpens what is there."""
    pending: dict[int, set[int]] = field(default_factory=dict)
    """Per component the coefficients that no scan has brought to full precision yet."""

    @property
    def is_complete(self) -> bool:
        """Whether the scans, as far as they were begun, hold all of every component."""
        return self.num_scans > 0 and not any(self.pending.values())


def outline(data: bytes) -> Outline:
    """Follow the markers of a JPEG file. Raises `BadImage` for an absurd number of scans."""
    found = Outline(end=len(data))
    position = 2
    while match := _MARKER.search(data, position):
        marker, start = match[1][0], match.end()
        if marker == _TEM:
            position = start
            continue
        stop = start + int.from_bytes(data[start : start + 2], "big")
        if marker in (_SOI, _EOI) or not start + 2 <= stop <= len(data):
            found.end, found.closed = match.start(), marker == _EOI
            break
        if marker in _FRAMES:
            found.progressive = marker in _PROGRESSIVE
            found.pending = {component: set(range(64)) for component in data[start + 8 : stop : 3]}
        elif marker == _SOS:
            _count_scan(found, data[start + 2 : stop])
        position = stop
    return found


def _count_scan(found: Outline, header: bytes) -> None:
    found.num_scans += 1
    if found.num_scans > MAX_SCANS:
        raise BadImage(
            f"the JPEG image has more than {MAX_SCANS} scans, which no camera or program makes; save it again"
        )
    if len(header) < 4:
        return
    first, last, precision = header[-3], header[-2], header[-1]
    found.refines = found.progressive and precision >> 4 > 0
    for component in header[1:-3:2]:
        if not found.progressive:
            found.pending[component] = set()
        elif precision & 15 == 0 and component in found.pending:
            found.pending[component].difference_update(range(first, last + 1))


def load_jpeg(data: bytes, scale: int = 1) -> Image.Image:
    """The decoded picture, at 1/`scale` of its sides (1, 2, 4 or 8).

    Raises `BadImage` for too many scans, and whatever Pillow does; `OSError` where pixels are missing.
    """
    data = without_metadata(data)
    found = outline(data)
    try:
        image = _decoded(data, scale)
    except OSError:
        return _mended(data, found, scale)
    # What libjpeg puts where nothing came is a flat middle grey, and the corner is the first to miss.
    is_doubtful = _ends_in_grey(image) or (found.progressive and not found.is_complete)
    return _mended(data, found, scale) if is_doubtful else image


def _mended(data: bytes, found: Outline, scale: int) -> Image.Image:
    """The picture with an end marker of ours. Raises `OSError` unless all of it is there."""
    scans = data[: found.end] if found.closed else _without_padding(data[: found.end])
    if not (found.closed or found.is_complete):
        raise OSError("it ends before all of its scans have begun")
    if found.refines and found.is_complete:  # all pixels are there; some lack the last bit of sharpness
        return _decoded(scans + _END, scale)
    wanted = _digest(_decoded(scans + _NONSENSE + _END, scale))
    image = _decoded(scans + _END, scale)
    if _digest(image) != wanted:
        raise OSError("its last rows are missing")
    return image


def _without_padding(scans: bytes) -> bytes:
    """Without the zeros that fill a buffer up, and without half an end marker."""
    kept = scans.rstrip(b"\0")
    return kept + b"\0" if len(kept) < len(scans) else kept.rstrip(b"\xff")


def _decoded(data: bytes, scale: int) -> Image.Image:
    image = JpegImagePlugin.JpegImageFile(BytesIO(data))
    if scale > 1:
        image.draft(None, (image.width // scale, image.height // scale))
    image.load()
    return image


def _ends_in_grey(image: Image.Image) -> bool:
    width, height = image.size
    corner = image.crop((max(width - 8, 0), height - 1, width, height)).tobytes()
    return set(corner) <= {127, 128}


def _digest(image: Image.Image) -> int:
    """A checksum of all pixels, made in strips to take no memory."""
    digest = 0
    for top in range(0, image.height, _ROWS):
        strip = image.crop((0, top, image.width, min(top + _ROWS, image.height)))
        digest = zlib.crc32(strip.tobytes(), digest)
    return digest


def without_metadata(data: bytes) -> bytes:
    """The same picture without blocks that no decoder needs: Pillow reads them all, and stumbles over some."""
    kept = [data[:2]]
    position = 2
    while match := _MARKER.search(data, position):
        marker = match[1][0]
        if marker in (_SOS, _EOI, _TEM, _SOI):
            return b"".join(kept) + data[match.start() :]
        position = match.end() + int.from_bytes(data[match.end() : match.end() + 2], "big")
        is_metadata = 0xE0 <= marker <= 0xFE and marker not in (0xE0, 0xEE)  # JFIF and Adobe tell the colours
        if not (is_metadata or (marker == 0xEE and position - match.end() < _ADOBE_BYTES)):
            kept.append(data[match.start() : position])
    return data
