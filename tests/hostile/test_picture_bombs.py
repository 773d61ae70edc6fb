"""Small files that hold much: each is decoded within the memory and time it was given, or refused; the next is read.

Decoding happens in a process of its own here as in the engine; nothing large is made in the process of the tests.
"""

import contextlib
import struct
import sys
import time
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge_runtime.errors import BadImage
from edge_runtime.vision.decoding import PictureDecoder
from edge_runtime.vision.image import ImageLimits

MIB = 2**20
BUDGET = 64 * MIB
AT_REST = 40 * MIB
"""More than the process takes before its first picture, on any machine."""
SIDE = 8192
WAIT_S = 120.0


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def packed_zeros(size: int) -> bytes:
    packer = zlib.compressobj(1)
    whole, rest = divmod(size, MIB)
    return b"".join(packer.compress(bytes(MIB)) for _ in range(whole)) + packer.compress(bytes(rest)) + packer.flush()


def png(side: int, depth: int, colour: int, channels: int, interlaced: int = 0, *before: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", side, side, depth, colour, 0, 0, interlaced)
    pixels = packed_zeros(min(side * (1 + side * channels * depth // 8), MIB))  # memory is taken before they are missed
    pieces = chunk(b"IHDR", header) + b"".join(before) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + pieces


def exif_of_many_entries() -> bytes:
    """1,500 entries that all point at the same megabyte, which Pillow before 13 copies for each."""
    entries, blob = 1500, MIB
    start = 8 + 2 + 12 * entries + 4
    table = b"".join(struct.pack("<HHII", 0x1000 + i, 7, blob, start) for i in range(entries))
    return b"II*\0" + struct.pack("<IH", 8, entries) + table + bytes(4) + bytes(blob)


def encoded(image: Image.Image, file_format: str, **options: object) -> bytes:
    stream = BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def jpeg_with(marker: int, pieces: list[bytes]) -> bytes:
    data = encoded(Image.new("RGB", (64, 64)), "JPEG")
    segments = (bytes((0xFF, marker)) + struct.pack(">H", 2 + len(piece)) + piece for piece in pieces)
    return data[:2] + b"".join(segments) + data[2:]


def jpeg_header_of(side: int, data: bytes) -> bytes:
    """The same JPEG, saying that its sides are longer."""
    at = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
    return data[: at + 5] + struct.pack(">HH", side, side) + data[at + 9 :]


def bmp_rle(side: int, body: bytes) -> bytes:
    info = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(body), 0, 0, 256, 0) + bytes(1024)
    return struct.pack("<2sIHHI", b"BM", 14 + len(info) + len(body), 0, 0, 14 + len(info)) + info + body


def webp_of(side: int) -> bytes:
    """A VP8X canvas of that size, with a small animation in it."""
    frames = [Image.new("RGBA", (16, 16), colour) for colour in ("red", "green")]
    data = bytearray(encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True))
    data[24:27] = data[27:30] = struct.pack("<I", side - 1)[:3]
    return bytes(data)


def gif_of(side: int) -> bytes:
    data = bytearray(encoded(Image.new("P", (16, 16)), "GIF"))
    data[6:10] = struct.pack("<HH", side, side)
    return bytes(data)


def exif_in_pieces() -> list[bytes]:
    block = exif_of_many_entries()
    return [b"Exif\0\0" + block[start : start + 65_000] for start in range(0, len(block), 65_000)]


TOO_LARGE = {
    "png rgba": lambda: png(SIDE, 8, 6, 4),
    "png rgba of 16 bits": lambda: png(SIDE, 16, 6, 4),
    "png grey of 16 bits": lambda: png(SIDE, 16, 0, 1),
    "png interlaced": lambda: png(SIDE, 8, 2, 3, 1),
    "webp canvas": lambda: webp_of(SIDE),
    "gif canvas": lambda: gif_of(SIDE),
    "bmp runs": lambda: bmp_rle(SIDE, b"\xff\x01" * 1000 + b"\0\1"),
    "progressive jpeg": lambda: jpeg_header_of(SIDE, encoded(Image.new("RGB", (64, 64)), "JPEG", progressive=True)),
}
READ_OR_REFUSED = {
    "exif of a png": lambda: png(64, 8, 2, 3, 0, chunk(b"eXIf", exif_of_many_entries())),
    "exif of a jpeg": lambda: jpeg_with(0xE1, exif_in_pieces()),
    "icc of a png": lambda: png(64, 8, 2, 3, 0, chunk(b"iCCP", b"x\0\0" + packed_zeros(100 * MIB))),
    "icc of a jpeg": lambda: jpeg_with(
        0xE2, [b"ICC_PROFILE\0" + bytes((i % 255 + 1, 255)) + bytes(60_000) for i in range(400)]
    ),
    "text of a png": lambda: png(64, 8, 2, 3, 0, *[chunk(b"zTXt", b"x\0\0" + packed_zeros(MIB))] * 2000),
    "orientation of a png": lambda: png(
        64, 8, 2, 3, 0, *[chunk(b"zTXt", b"Raw profile type exif\0\0" + packed_zeros(100 * MIB))] * 20
    ),
    "bmp of empty runs": lambda: bmp_rle(512, b"\0\x01" + b"\1\0" * MIB),
    "gif of one code": lambda: gif_of(512),
}


@pytest.fixture(scope="module")
def decoder() -> Iterator[PictureDecoder]:
    made = PictureDecoder(ImageLimits(max_decode_bytes=BUDGET))
    yield made
    made.close()


def peak_bytes(decoder: PictureDecoder) -> int:
    process = decoder._files._process
    assert process is not None
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def outcome(decoder: PictureDecoder, data: bytes) -> np.ndarray | None:
    """The pixels, or None for `BadImage`."""
    try:
        decoder.sizes([data])
        return decoder.start([data], 32, 32).result(WAIT_S).frames[0]
    except BadImage:
        return None


def check_next(decoder: PictureDecoder) -> None:
    """The next picture is read, and the process never took more than it was given."""
    good = encoded(Image.new("RGB", (40, 30), "red"), "PNG")
    assert decoder.start([good], 32, 32).result(WAIT_S).frames[0][0, 0].tolist() == [255, 0, 0]
    if sys.platform == "linux":
        assert peak_bytes(decoder) < AT_REST + BUDGET + 16 * MIB


@pytest.mark.parametrize("name", TOO_LARGE)
def test_what_does_not_fit_the_plan_is_refused(decoder: PictureDecoder, name: str) -> None:
    data = TOO_LARGE[name]()
    assert len(data) < 2 * MIB
    assert outcome(decoder, data) is None
    check_next(decoder)


@pytest.mark.parametrize("name", READ_OR_REFUSED)
def test_metadata_and_runs_take_no_more_than_they_were_given(decoder: PictureDecoder, name: str) -> None:
    data = READ_OR_REFUSED[name]()
    pixels = outcome(decoder, data)
    assert pixels is None or pixels.shape == (32, 32, 3)
    check_next(decoder)


def test_headers_take_no_time() -> None:
    """A limit for the whole lot that is far from what it takes, and far below what unbounded loops took."""
    decoder = PictureDecoder(ImageLimits())
    blocks = {
        "segments": b"\xff\xd8" + b"\xff\xe1\0\2" * (4 * MIB),
        "fill bytes": b"\xff\xd8" + b"\xff" * (16 * MIB),
        "chunks": png(64, 8, 2, 3)[:33] + chunk(b"tEXt", b"") * MIB,
        "extensions": b"GIF89a\1\0\1\0\0\0\0" + b"\x21\xfe\0" * (4 * MIB),
        "comments": b"GIF89a\1\0\1\0\0\0\0\x21\xfe" + b"\1x" * (4 * MIB),
        "riff": b"RIFF\0\0\0\0WEBPVP8X" + struct.pack("<I", 10) + bytes(10) + (b"EXIF" + bytes(4)) * (2 * MIB),
    }
    started = time.process_time()
    for data in blocks.values():
        with contextlib.suppress(BadImage):
            decoder.sizes([data])
    assert time.process_time() - started < 30
    decoder.close()
