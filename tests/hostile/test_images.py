"""Images that are broken, hostile or merely odd: each gives exact pixels or a clear `BadImage`, never anything else."""

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from edge_runtime.errors import BadImage
from edge_runtime.vision.image import FORMATS, ImageLimits, decode_image, image_size

LIMITS = ImageLimits()
RNG = np.random.default_rng(0)
SCENE = RNG.integers(0, 256, (24, 40, 3), dtype=np.uint8)


def encoded(image: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    stream = BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def png(width: int, height: int, raw: bytes) -> bytes:
    """A hand-made 8-bit grey PNG whose pixel data is `raw`."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(raw)), (b"IEND", b""))
    packed = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


@pytest.mark.parametrize("file_format", ["PNG", "BMP"])
def test_lossless_formats_give_their_pixels(file_format: str) -> None:
    data = encoded(Image.fromarray(SCENE), file_format)
    assert image_size(data, LIMITS) == (24, 40)
    np.testing.assert_array_equal(decode_image(data, LIMITS), SCENE)


def test_lossless_webp_gives_its_pixels() -> None:
    np.testing.assert_array_equal(decode_image(encoded(Image.fromarray(SCENE), "WEBP", lossless=True), LIMITS), SCENE)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_and_known_from_the_header(file_format: str, orientation: int) -> None:
    pixels = np.zeros((16, 32, 3), dtype=np.uint8)
    pixels[:8, :16] = 255  # only the corner that is stored top left is white
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100} if file_format == "JPEG" else {"lossless": True} if file_format == "WEBP" else {}
    data = encoded(Image.fromarray(pixels), file_format, exif=exif, **options)

    decoded = decode_image(data, LIMITS)

    assert image_size(data, LIMITS) == decoded.shape[:2]
    assert decoded.shape[:2] == ((16, 32) if orientation <= 4 else (32, 16))
    rows, columns = decoded.shape[0] // 2, decoded.shape[1] // 2
    corners = {"top left": decoded[:rows, :columns], "top right": decoded[:rows, columns:]}
    corners |= {"bottom left": decoded[rows:, :columns], "bottom right": decoded[rows:, columns:]}
    white = [name for name, corner in corners.items() if corner.mean() > 200]
    where = {1: "top left", 2: "top right", 3: "bottom right", 4: "bottom left"}
    where |= {5: "top left", 6: "top right", 7: "bottom right", 8: "bottom left"}  # EXIF 2.3, table of tag 0x0112
    assert white == [where[orientation]]


def test_damaged_exif_is_ignored() -> None:
    data = encoded(Image.fromarray(SCENE), "PNG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xffgarbage")
    np.testing.assert_array_equal(decode_image(data, LIMITS), SCENE)


def test_colours_under_transparent_pixels_are_not_seen() -> None:
    alpha = np.zeros((24, 40), dtype=np.uint8)
    alpha[:12] = 255
    decoded = decode_image(encoded(Image.fromarray(np.dstack((SCENE, alpha)))), LIMITS)
    np.testing.assert_array_equal(decoded[:12], SCENE[:12])
    assert (decoded[12:] == 255).all()


def test_grey_and_one_bit_images_become_rgb() -> None:
    grey = SCENE[:, :, 0]
    np.testing.assert_array_equal(decode_image(encoded(Image.fromarray(grey)), LIMITS), np.dstack([grey] * 3))
    bits = Image.fromarray(grey).convert("1")
    np.testing.assert_array_equal(decode_image(encoded(bits), LIMITS)[:, :, 0], np.asarray(bits) * 255)


def test_grey_with_alpha() -> None:
    grey_alpha = Image.fromarray(SCENE[:, :, 0]).convert("LA")
    np.testing.assert_array_equal(decode_image(encoded(grey_alpha), LIMITS)[:, :, 1], SCENE[:, :, 0])


def test_16_bit_grey_is_scaled_not_clipped() -> None:
    grey = np.array([[0, 255, 256, 32768, 65535]], dtype=np.uint16)
    decoded = decode_image(encoded(Image.fromarray(grey)), LIMITS)
    np.testing.assert_array_equal(decoded[0, :, 0], [0, 0, 1, 128, 255])


def test_palette_with_transparency_shows_white_there() -> None:
    image = Image.fromarray(SCENE).quantize(16)
    wanted = np.where(np.asarray(image)[:, :, None] == 3, np.uint8(255), np.asarray(image.convert("RGB")))
    np.testing.assert_array_equal(decode_image(encoded(image, transparency=3), LIMITS), wanted)


def test_cmyk_jpeg_becomes_rgb() -> None:
    image = Image.new("CMYK", (32, 16), (0, 255, 255, 0))  # no cyan, full magenta and yellow: red
    assert decode_image(encoded(image, "JPEG", quality=100), LIMITS).mean(axis=(0, 1)) == pytest.approx(
        [255, 0, 0], abs=3
    )


@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "GIF"])
def test_first_frame_of_an_animation(file_format: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    data = encoded(frames[0], file_format, save_all=True, append_images=frames[1:], lossless=True)
    np.testing.assert_array_equal(decode_image(data, LIMITS)[0, 0], [255, 0, 0])


@pytest.mark.parametrize("size", [(1, 1), (10000, 1), (1, 10000)])
def test_thin_and_tiny_images_decode(size: tuple[int, int]) -> None:
    data = encoded(Image.new("RGB", size, "white"))
    assert decode_image(data, LIMITS).shape == (size[1], size[0], 3)


@pytest.mark.parametrize("file_format", FORMATS)
def test_truncated_files_are_refused(file_format: str) -> None:
    data = encoded(Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)), file_format)
    for length in (1, 8, 20, len(data) // 4, len(data) // 2, len(data) - len(data) // 10):
        with pytest.raises(BadImage):
            decode_image(data[:length], LIMITS)


@pytest.mark.parametrize("data", [b"", b"\x00", b"hello", b"GIF89a\x01\x00\x01\x00", b"%PDF-1.7", bytes(4096)])
def test_what_is_no_image_is_refused(data: bytes) -> None:
    for function in (image_size, decode_image):
        with pytest.raises(BadImage):
            function(data, LIMITS)


@pytest.mark.parametrize(
    ("file_format", "named"), [("TIFF", "TIFF file"), ("PPM", "not an image"), ("ICO", "ICO file")]
)
def test_other_formats_are_refused_by_name(file_format: str, named: str) -> None:
    with pytest.raises(BadImage, match=f"{named}.*PNG, JPEG, WEBP, BMP, GIF"):
        decode_image(encoded(Image.fromarray(SCENE), file_format), LIMITS)


@pytest.mark.parametrize("side", [8193, 20000, 60000, 2**31 - 1])
def test_bombs_are_refused_by_their_header(side: int) -> None:
    bomb = png(side, side, b"\x00" * 1000)
    for function in (image_size, decode_image):
        with pytest.raises(BadImage):
            function(bomb, LIMITS)


def test_header_that_promises_more_pixels_than_the_file_has() -> None:
    with pytest.raises(BadImage, match="damaged or cut short"):
        decode_image(png(4000, 4000, b"\x00" * 100), LIMITS)


def test_compressed_text_bomb_is_left_packed() -> None:
    data = encoded(Image.fromarray(SCENE))
    text = b"note\x00\x00" + zlib.compress(bytes(80_000_000))
    chunk = struct.pack(">I", len(text)) + b"zTXt" + text + struct.pack(">I", zlib.crc32(b"zTXt" + text))
    np.testing.assert_array_equal(decode_image(data[:33] + chunk + data[33:], LIMITS), SCENE)  # 33: behind IHDR


def test_zero_sides_are_refused() -> None:
    for width, height in ((0, 5), (5, 0), (0, 0)):
        with pytest.raises(BadImage):
            decode_image(png(width, height, b""), LIMITS)


def test_limits_count_bytes_and_pixels() -> None:
    data = encoded(Image.fromarray(SCENE))
    with pytest.raises(BadImage, match=f"at most {len(data) - 1} are accepted"):
        image_size(data, ImageLimits(max_bytes=len(data) - 1))
    with pytest.raises(BadImage, match="40x24, 960 pixels; at most 959"):
        image_size(data, ImageLimits(max_source_pixels=959))
    assert image_size(data, ImageLimits(max_bytes=len(data), max_source_pixels=960)) == (24, 40)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((3, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 3), np.int64),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
    ],
)
def test_arrays_of_another_kind_are_refused(array: np.ndarray) -> None:
    for function in (image_size, decode_image):
        with pytest.raises(BadImage):
            function(array, LIMITS)


@pytest.mark.parametrize("value", ["a path", None, 7])
def test_values_of_another_type_are_refused(value: object) -> None:
    with pytest.raises(BadImage, match="bytes or a numpy array"):
        decode_image(value, LIMITS)  # type: ignore[arg-type]
