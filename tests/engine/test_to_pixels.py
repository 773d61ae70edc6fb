"""A point of an answer, 0 to 1000 across and down, is in a pixel of the image as its sender has it."""

from __future__ import annotations

import io
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from edge_kernels.library import KernelLibrary
from edge_runtime.engine.events import Failed, Finished, ImageShape
from edge_runtime.engine.request import GenerationRequest
from edge_runtime.errors import BadParameter, SmallImageWarning
from edge_runtime.families.qwen3_vl.processor import MAX_ASPECT_RATIO, PixelRange, image_target_size
from edge_runtime.model.conversation import ImagePart, Message, Part, PictureDigest, TextPart, VideoPart
from tests.engine.tiny_engine import engine_of

SIDES = st.one_of(st.integers(1, 8), st.sampled_from([31, 999, 1000, 1001, 4000, 8192]), st.integers(1, 100_000))
VALUES = st.one_of(st.integers(0, 1000), st.floats(0, 1000))


def shape(width: int, height: int, num_tokens: int = 2000) -> ImageShape:
    return ImageShape(width, height, num_tokens)


def answer(*images: ImageShape) -> Finished:
    return Finished("r", "(512, 300)", "stop", images=images)


@given(SIDES, SIDES, VALUES, VALUES)
def test_a_point_is_in_the_pixel_it_says(width: int, height: int, x: float, y: float) -> None:
    pixel = shape(width, height).to_pixels((x, y))
    assert all(type(value) is int for value in pixel)
    for value, size, got in ((x, width, pixel[0]), (y, height, pixel[1])):
        assert 0 <= got < size
        place = value * size / 1000
        assert got <= place <= got + 1


@given(SIDES, SIDES)
def test_the_edges_are_exact(width: int, height: int) -> None:
    image = shape(width, height)
    assert image.to_pixels((0, 0)) == (0, 0)
    assert image.to_pixels((1000, 1000)) == image.to_pixels((1000.0, 1000.0)) == (width - 1, height - 1)
    assert image.to_pixels((0, 1000)) == (0, height - 1)


@given(SIDES, st.lists(VALUES, min_size=2, max_size=20))
def test_what_is_further_right_stays_there(size: int, values: list[float]) -> None:
    image = shape(size, size)
    pixels = [image.to_pixels((value, 0))[0] for value in sorted(values)]
    assert pixels == sorted(pixels)


@given(SIDES, SIDES, VALUES, VALUES)
def test_going_through_the_frame_that_the_model_saw_leads_to_the_same_place(
    width: int, height: int, x: float, y: float
) -> None:
    assume(max(width, height) <= MAX_ASPECT_RATIO * min(width, height))
    inner_height, inner_width = image_target_size(height, width, 32, PixelRange(65_536, 4_194_304))
    inside = shape(inner_width, inner_height).to_pixels((x, y))
    direct = shape(width, height).to_pixels((x, y))
    for seen, size, inner, got in zip(inside, (width, height), (inner_width, inner_height), direct, strict=True):
        scale = size / inner
        # The pixel of the resized frame covers these of the image; rounding may add one on either side.
        assert math.floor(seen * scale) - 1 <= got <= math.ceil((seen + 1) * scale)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 4000), (4000, 3), (4000, 1)])
def test_extreme_pictures(width: int, height: int) -> None:
    image = shape(width, height)
    seen = [image.to_pixels((value, value)) for value in range(1001)]
    assert {x for x, _ in seen} == set(range(width)) if width <= 1000 else len({x for x, _ in seen}) == 1001
    assert seen[500] == (width // 2, height // 2)
    assert seen[-1] == (width - 1, height - 1)


def test_the_last_image_is_meant_unless_another_is_named() -> None:
    said = answer(shape(100, 200), shape(1000, 500))
    assert said.to_pixels((500, 100)) == said.to_pixels((500, 100), image=1) == (500, 50)
    assert said.to_pixels([500, 100], image=0) == said.to_pixels(np.array([500, 100]), image=-2) == (50, 20)
    assert said.to_pixels((np.uint8(250), np.float32(12.5)), image=np.int64(1)) == (250, 6)


@pytest.mark.parametrize(
    "point",
    [
        (-1, 5),
        (5, 1000.5),
        (math.nan, 5),
        (math.inf, 5),
        (1, 2, 3),
        (1,),
        5,
        None,
        "12",
        ("1", "2"),
        (True, 5),
        (1j, 2),
    ],
)
def test_what_is_no_point_is_refused(point: object) -> None:
    with pytest.raises(BadParameter, match="two numbers from 0 to 1000"):
        answer(shape(10, 10)).to_pixels(point)  # type: ignore[arg-type]


@pytest.mark.parametrize("image", [2, -3, True, None, "0", 0.0])
def test_an_image_that_is_not_there_is_refused(image: object) -> None:
    with pytest.raises(BadParameter, match="the chat has 2; they count from 0"):
        answer(shape(10, 10), shape(10, 10)).to_pixels((1, 1), image=image)  # type: ignore[arg-type]
    with pytest.raises(BadParameter, match="the chat has 0"):
        answer().to_pixels((1, 1))


def test_a_small_image_is_warned_of_at_the_callers_line() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        answer(shape(10, 10, 1023), shape(10, 10, 1024)).to_pixels((1, 1))
        assert caught == []
        answer(shape(10, 10, 1024), shape(10, 10, 1023)).to_pixels((1, 1))
    (warning,) = caught
    assert warning.category is SmallImageWarning
    assert "has 1023 tokens" in str(warning.message)
    assert Path(warning.filename) == Path(__file__)


def test_an_answer_tells_the_images_as_they_were_decoded(tiny_bundle_edge: Path, kernel_library: KernelLibrary) -> None:
    """Upright, of any form, found in the cache or not, by digest or not; and no video frames among them."""
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.fromarray(np.full((60, 90, 3), 7, np.uint8)).save(stream, "JPEG", exif=exif)
    pixels = np.random.default_rng(0).integers(0, 256, (64, 200, 3), dtype=np.uint8)
    engine = engine_of(tiny_bundle_edge, kernel_library)
    for kind in (lambda picture: picture, PictureDigest.of):
        clip = VideoPart((pixels, pixels), (0.0, 1.0))
        parts: list[Part] = [
            ImagePart(kind(stream.getvalue())),
            clip,
            ImagePart(kind(pixels)),
            TextPart("where? " * 30),
        ]
        *_, ended = engine.generate(GenerationRequest("r", (Message("user", parts),), max_tokens=2))
        assert not isinstance(ended, Failed), ended
        assert [(image.width, image.height) for image in ended.images] == [(60, 90), (200, 64)]
        video_tokens = ended.timings.image_tokens - sum(image.num_tokens for image in ended.images)
        assert video_tokens == 2 * 6  # of 32 x 32 pixels each
