"""Random damage to real image files: the answer is an image of the announced size, or `BadImage`."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from edge_runtime.errors import BadImage
from edge_runtime.vision.image import FORMATS, ImageLimits, decode_image, image_size

LIMITS = ImageLimits(max_bytes=1 << 20, max_source_pixels=1 << 20)
ROUNDS = 300


def sample(file_format: str, rng: np.random.Generator) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = int(rng.integers(1, 9))
    mode = rng.choice(["RGB", "L", "P", "RGBA", "CMYK"])
    image = Image.fromarray(rng.integers(0, 256, (24, 31, 3), dtype=np.uint8))
    allowed = {"JPEG": ("RGB", "L", "CMYK"), "BMP": ("RGB", "L", "P"), "WEBP": ("RGB", "RGBA")}
    image = image.convert(mode if mode in allowed.get(file_format, ("RGB", "L", "P", "RGBA")) else "RGB")
    stream = BytesIO()
    image.save(stream, file_format, **({} if file_format == "BMP" else {"exif": exif}))
    return stream.getvalue()


def check(data: bytes) -> None:
    try:
        size = image_size(data, LIMITS)
        pixels = decode_image(data, LIMITS)
    except BadImage:
        return
    assert pixels.dtype == np.uint8
    assert pixels.shape == (*size, 3)


@pytest.mark.parametrize("file_format", FORMATS)
def test_changed_bytes(file_format: str) -> None:
    rng = np.random.default_rng(1)
    for _ in range(ROUNDS):
        data = bytearray(sample(file_format, rng))
        for _ in range(int(rng.integers(1, 6))):
            data[int(rng.integers(0, min(len(data), 400)))] = int(rng.integers(0, 256))
        check(bytes(data))


@pytest.mark.parametrize("file_format", FORMATS)
def test_removed_and_repeated_pieces(file_format: str) -> None:
    rng = np.random.default_rng(2)
    for _ in range(ROUNDS):
        data = sample(file_format, rng)
        start, stop = sorted(rng.integers(0, len(data), 2))
        check(data[:start] + data[stop:])
        check(data[:stop] + data[start:])


@pytest.mark.parametrize("magic", [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"RIFF\x00\x10\x00\x00WEBPVP8 ", b"BM"])
def test_random_bytes_after_a_true_signature(magic: bytes) -> None:
    rng = np.random.default_rng(3)
    for _ in range(ROUNDS):
        check(magic + rng.bytes(int(rng.integers(0, 200))))
