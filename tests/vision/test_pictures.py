"""What a picture looks like to a person is what the model sees: transparency, cut files, odd depths."""

import errno
import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from edge_runtime.errors import BadImage, Overloaded
from edge_runtime.vision.image import ImageLimits, decode_image, image_size, pil_pixels

LIMITS = ImageLimits()
RNG = np.random.default_rng(0)
COARSE = Image.fromarray(RNG.integers(0, 256, (15, 20, 3), dtype=np.uint8))
SCENE = COARSE.resize((320, 240), Image.Resampling.BICUBIC)
BASELINE = {"quality": 88}
KINDS = {
    "baseline": BASELINE,
    "restarts": {"quality": 88, "restart_marker_rows": 2},
    "grey": {"quality": 88},
    "4:4:4": {"quality": 95, "subsampling": 0},
    "progressive": {"quality": 88, "progressive": True},
}


def encoded(image: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    stream = BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def jpeg(kind: str) -> bytes:
    return encoded(SCENE.convert("L") if kind == "grey" else SCENE, "JPEG", **KINDS[kind])


def pixels_or_none(data: bytes) -> np.ndarray | None:
    try:
        return decode_image(data, LIMITS)
    except BadImage:
        return None


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(header: tuple[int, int, int, int], rows: bytes, *before: bytes) -> bytes:
    """A PNG of (width, height, depth, colour type) with chunks before its pixels."""
    first = chunk(b"IHDR", struct.pack(">IIBBBBB", *header, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + first + b"".join(before) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def with_alpha(mode: str) -> Image.Image:
    """The scene in `mode`, its left half opaque and its right half transparent."""
    alpha = Image.new("L", SCENE.size, 0)
    alpha.paste(255, (0, 0, SCENE.width // 2, SCENE.height))
    image = SCENE.copy()
    image.putalpha(alpha)
    return image if mode == "RGBA" else image.convert("LA") if mode == "LA" else image


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "RGBa", "La"])
def test_transparency_of_every_mode_is_white_and_the_rest_is_untouched(mode: str) -> None:
    if mode == "PA":
        image = SCENE.quantize(64)
        wanted = np.asarray(image.convert("RGB"))
        image = image.convert("PA")
        image.putalpha(with_alpha("RGBA").getchannel("A"))
    else:
        image = with_alpha("LA" if mode in ("LA", "La") else "RGBA")
        wanted = np.asarray(image.convert("RGBA"))[:, :, :3]
        image = image.convert(mode)
    seen = pil_pixels(image)
    half = SCENE.width // 2
    np.testing.assert_array_equal(seen[:, :half], wanted[:, :half])
    assert (seen[:, half:] == 255).all()


@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "GIF"])
def test_a_file_and_its_pil_image_give_the_same_pixels(file_format: str) -> None:
    data = encoded(with_alpha("RGBA"), file_format, lossless=True)
    np.testing.assert_array_equal(decode_image(data, LIMITS), pil_pixels(Image.open(BytesIO(data))))


def test_half_transparent_is_blended_as_qwen_vl_utils_does() -> None:
    rgba = Image.fromarray(RNG.integers(0, 256, (600, 31, 4), dtype=np.uint8))
    white = Image.new("RGB", rgba.size, (255, 255, 255))
    white.paste(rgba, mask=rgba.split()[3])
    np.testing.assert_array_equal(decode_image(encoded(rgba), LIMITS), np.asarray(white))


def test_opaque_alpha_changes_no_bit() -> None:
    image = SCENE.copy()
    image.putalpha(255)
    np.testing.assert_array_equal(decode_image(encoded(image), LIMITS), np.asarray(SCENE))


@pytest.mark.parametrize(
    ("depth", "colour", "rows", "transparent", "wanted"),
    [
        (8, 0, b"\0\x05\x80", b"\0\x05", [255, 128]),
        (1, 0, b"\0\x40", b"\0\0", [255, 255]),  # two pixels: 0, see-through, and 1
        (2, 0, b"\0\x60", b"\0\x01", [255, 170]),
        (4, 0, b"\0\x3c", b"\0\x03", [255, 204]),
        (16, 0, b"\0\x12\x34\x12\x35", b"\x12\x34", [255, 0x12]),
        (8, 2, b"\0\1\2\3\4\4\4", b"\0\1\0\2\0\3", [255, 4]),
        (16, 2, b"\0" + b"\x12\x34" * 3 + b"\x56\x78" * 3, b"\x12\x34" * 3, [255, 0x56]),
    ],
)
def test_one_transparent_colour_in_every_depth(
    depth: int, colour: int, rows: bytes, transparent: bytes, wanted: list[int]
) -> None:
    data = png((2, 1, depth, colour), rows, chunk(b"tRNS", transparent))
    assert decode_image(data, LIMITS)[0, :, 0].tolist() == wanted


def test_bmp_whose_alpha_was_never_set_is_opaque() -> None:
    rgba = np.dstack((np.asarray(SCENE), np.zeros((240, 320), np.uint8)))
    head = struct.pack("<2sIHHI", b"BM", 0, 0, 0, 14 + 124)
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    info = struct.pack("<IiiHHIIiiII", 124, 320, -240, 1, 32, 3, 0, 0, 0, 0, 0) + masks
    data = head + info + bytes(124 - len(info)) + rgba[:, :, [2, 1, 0, 3]].tobytes()
    np.testing.assert_array_equal(decode_image(data, LIMITS), np.asarray(SCENE))


@pytest.mark.parametrize("kind", KINDS)
def test_jpeg_that_lacks_only_its_end_is_whole(kind: str) -> None:
    whole = jpeg(kind)
    wanted = decode_image(whole, LIMITS)
    endings = [b"", b"\xff", bytes(512), b"\r\n--frame\r\nContent-Type: image/jpeg\r\n\r\n", encoded(COARSE, "JPEG")]
    for ending in endings:
        np.testing.assert_array_equal(decode_image(whole[:-2] + ending, LIMITS), wanted)
        np.testing.assert_array_equal(decode_image(whole + ending, LIMITS), wanted)


@pytest.mark.parametrize("ending", [b"", b"\xff", bytes(3000), b"\xff\xd9", bytes(64) + b"\xff\xd9"])
@pytest.mark.parametrize("kind", ["baseline", "restarts", "grey", "4:4:4"])
def test_jpeg_that_lacks_pixels_is_refused_wherever_it_was_cut(kind: str, ending: bytes) -> None:
    whole = jpeg(kind)
    for tenth in range(1, 9):
        with pytest.raises(BadImage):
            decode_image(whole[: len(whole) * tenth // 10] + ending, LIMITS)


@pytest.mark.parametrize("kind", ["baseline", "restarts", "grey", "4:4:4"])
def test_jpeg_cut_anywhere_near_its_end_is_whole_or_refused(kind: str) -> None:
    whole = jpeg(kind)
    wanted = decode_image(whole, LIMITS)
    outcomes = [pixels_or_none(whole[:-missing]) for missing in range(3, 60)]
    assert sum(pixels is None for pixels in outcomes) >= 50
    assert all(pixels is None or (pixels == wanted).all() for pixels in outcomes)


def test_progressive_jpeg_needs_all_its_scans_and_may_lack_the_end_of_the_last() -> None:
    whole = jpeg("progressive")
    wanted = decode_image(whole, LIMITS).astype(int)
    last_scan = whole.rindex(b"\xff\xda")
    for cut in (len(whole) // 4, len(whole) // 2, last_scan - 1, last_scan + 4):
        with pytest.raises(BadImage):
            decode_image(whole[:cut], LIMITS)
    nearly = decode_image(whole[: (last_scan + len(whole)) // 2], LIMITS)
    assert np.abs(nearly - wanted).mean() < 3


def test_a_picture_that_is_grey_at_its_end_is_whole() -> None:
    grey = Image.new("RGB", (64, 64), (128, 128, 128))
    assert (decode_image(encoded(grey, "JPEG"), LIMITS) == 128).all()
    assert (decode_image(encoded(grey, "JPEG")[:-2], LIMITS) == 128).all()


@pytest.mark.parametrize("part", [0.5, 0.9])
def test_half_a_file_behind_a_lazy_pil_image_is_refused(part: float) -> None:
    for file_format in ("JPEG", "PNG", "BMP", "GIF"):
        data = encoded(SCENE, file_format)
        with pytest.raises(BadImage):
            pil_pixels(Image.open(BytesIO(data[: int(len(data) * part)])))


def test_lazy_pil_image_that_lacks_only_its_end_is_read() -> None:
    whole = jpeg("baseline")
    np.testing.assert_array_equal(pil_pixels(Image.open(BytesIO(whole[:-2]))), decode_image(whole, LIMITS))


def test_camera_frame_without_huffman_tables() -> None:
    """Frames of MJPEG streams leave the standard tables out."""
    whole = encoded(SCENE, "JPEG", quality=75)
    start = whole.index(b"\xff\xc4")
    stop = whole.index(b"\xff\xda")
    np.testing.assert_array_equal(decode_image(whole[:start] + whole[stop:], LIMITS), decode_image(whole, LIMITS))


def test_absurd_numbers_of_scans_are_refused_before_they_are_decoded() -> None:
    whole = jpeg("progressive")
    last = whole.rindex(b"\xff\xda")
    with pytest.raises(BadImage, match="more than 100 scans"):
        decode_image(whole[:-2] + whole[last:-2] * 100 + b"\xff\xd9", LIMITS)


def test_png_whose_metadata_is_damaged_is_shown() -> None:
    data = encoded(SCENE)
    wanted = np.asarray(SCENE)
    bad_text = bytearray(chunk(b"tEXt", b"Comment\0made by hand"))
    bad_text[-1] ^= 1
    profile = chunk(b"iCCP", b"ICC\0\0" + zlib.compress(bytes(5_000_000)))
    for extra in (bytes(bad_text), profile, chunk(b"gAMA", b""), chunk(b"zTXt", b"x\0\0no zlib")):
        np.testing.assert_array_equal(decode_image(data[:33] + extra + data[33:], LIMITS), wanted)


def test_png_whose_end_is_missing_or_followed_is_shown() -> None:
    data = encoded(SCENE)
    for ending in (data[:-12], data[:-5], data[:-16], data + b"\r\n--frame", data + data):
        np.testing.assert_array_equal(decode_image(ending, LIMITS), np.asarray(SCENE))
    for part in range(1, 10):
        with pytest.raises(BadImage):
            decode_image(data[: len(data) * part // 10], LIMITS)


def test_orientation_is_found_where_programs_put_it() -> None:
    tall = image_size(encoded(SCENE, "PNG"), LIMITS)[::-1]
    data = encoded(SCENE)
    exif = Image.Exif()
    exif[0x0112] = 6
    profile = b"\nexif\n  30\n" + exif.tobytes().hex().encode()
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="8"/></x:xmpmeta>'
    for extra in (
        chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(profile)),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(xmp)),
    ):
        turned = data[:33] + extra + data[33:]
        assert image_size(turned, LIMITS) == decode_image(turned, LIMITS).shape[:2] == tall


def test_large_jpeg_is_decoded_at_half_its_size_only_where_the_whole_does_not_fit() -> None:
    from edge_runtime.vision.pictures import decode_picture

    data = encoded(SCENE.resize((640, 480)), "JPEG")
    whole = decode_picture(data, LIMITS, (32, 32))
    assert whole.size == (640, 480)
    tight = ImageLimits(max_decode_bytes=len(data) + 700_000)
    assert decode_picture(data, tight, (32, 32)).size == (320, 240)
    with pytest.raises(BadImage, match="to decode, and the memory plan has"):
        decode_picture(data, tight, (480, 640))


def test_what_takes_more_memory_than_planned_is_refused_by_name() -> None:
    data = encoded(SCENE.convert("RGBA"))
    with pytest.raises(BadImage, match="320x240 PNG image takes 2 MiB to decode"):
        decode_image(data, ImageLimits(max_decode_bytes=400_000))


@pytest.mark.parametrize("part", [0.25, 0.5, 0.75])
def test_progressive_jpeg_that_somebody_closed_too_early_is_refused(part: float) -> None:
    whole = jpeg("progressive")
    with pytest.raises(BadImage):
        decode_image(whole[: int(len(whole) * part)] + b"\xff\xd9", LIMITS)


def test_progressive_jpeg_made_of_fewer_scans_is_shown() -> None:
    whole = jpeg("progressive")
    shorter = whole[: whole.rindex(b"\xff\xc4", 0, whole.rindex(b"\xff\xda"))] + b"\xff\xd9"
    assert decode_image(shorter, LIMITS).shape == (240, 320, 3)


def test_our_own_shortages_are_not_the_pictures_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    from edge_runtime.vision import pictures

    data = encoded(SCENE)
    for error in (OSError(errno.EMFILE, "Too many open files"), MemoryError()):

        def fail(*_: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(pictures, "to_rgb", fail)
        with pytest.raises(Overloaded):
            decode_image(data, LIMITS)


def test_segments_that_are_damaged_but_not_needed_are_passed_over() -> None:
    whole = jpeg("baseline")
    wanted = decode_image(whole, LIMITS)
    blocks = {
        0xE1: b"Exif\0\0MM\0*\xff\xff\xff\xffabcd",
        0xE2: b"ICC_PROFILE\0\x05\x01xx",
        0xED: b"Photoshop 3.0\0" + b"8BIM\xff\xff",
        0xEE: b"Adobe\0",
        0xFE: b"",
    }
    for marker, block in blocks.items():
        segment = bytes((0xFF, marker)) + struct.pack(">H", 2 + len(block)) + block
        np.testing.assert_array_equal(decode_image(whole[:2] + segment + whole[2:], LIMITS), wanted)
