"""Pixels reach the vision tower as transformers' processors send them: to 1/255 before normalization."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.image_utils import load_image

from edge_runtime.families.qwen3_vl.processor import patchify
from edge_runtime.model.conversation import ImagePart
from edge_runtime.model.manifest import load_manifest
from edge_runtime.vision.image import ImageLimits, decode_image
from edge_runtime.vision.plan import MediaPlanner
from edge_runtime.vision.resize import resize_image
from tests.parity.theirs import Transformers

pytestmark = pytest.mark.parity

ONE_LEVEL = 1 / 255 + 1e-6

SIZES = [(1, 1), (1, 7), (31, 33), (64, 64), (255, 257), (256, 256), (480, 640), (720, 1280), (97, 1900), (1500, 70)]
MODES = ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK"]


@pytest.fixture(scope="module")
def pixel_values_of(tiny_bundle, theirs_of: Callable[[str], Transformers]):
    """Ours and transformers' pixels (0..1) of an encoded image file, and both grids."""
    manifest = load_manifest(tiny_bundle)
    planner = MediaPlanner(manifest, ImageLimits())
    vision = manifest.architecture.vision

    def both(data: bytes):
        (run,) = planner.plan(ImagePart(data)).runs
        pixels = resize_image(decode_image(data, ImageLimits()), run.height, run.width)
        ours = patchify((pixels,), run.normalization, vision)
        # Without the format named, transformers takes an image one pixel high for one of one channel.
        expected = theirs_of("tied").image_processor(
            np.asarray(load_image(on_white(data))), input_data_format="channels_last", return_tensors="np"
        )
        grid = (1, run.height // vision.patch_size, run.width // vision.patch_size)
        assert grid == tuple(expected["image_grid_thw"][0])
        return ours * 0.5 + 0.5, expected["pixel_values"] * 0.5 + 0.5

    return both


def encode(image: Image.Image, file_format: str, **options: object) -> bytes:
    stream = BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def on_white(data: bytes) -> Image.Image:
    """The image as people see it, which Qwen's own tools also do: transformers drops alpha (decision 7)."""
    image = Image.open(BytesIO(data))
    if "A" not in image.getbands():
        return image
    paper = Image.new("RGBA", image.size, "white")
    paper.alpha_composite(image.convert("RGBA"))
    return paper.convert("RGB")


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_every_size(height: int, width: int, pixel_values_of) -> None:
    ours, expected = pixel_values_of(encode(picture(height, width), "PNG"))
    assert np.abs(ours - expected).max() <= ONE_LEVEL


@pytest.mark.parametrize("mode", MODES)
def test_every_mode(mode: str, pixel_values_of) -> None:
    image = picture(190, 270)
    if mode in ("RGBA", "LA"):
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    ours, expected = pixel_values_of(encode(image.convert(mode), "JPEG" if mode == "CMYK" else "PNG"))
    assert np.abs(ours - expected).max() <= ONE_LEVEL


@pytest.mark.parametrize("file_format", ["JPEG", "WEBP", "BMP"])
def test_every_format(file_format: str, pixel_values_of) -> None:
    ours, expected = pixel_values_of(encode(picture(123, 321), file_format))
    assert np.abs(ours - expected).max() <= ONE_LEVEL


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation(orientation: int, pixel_values_of) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    ours, expected = pixel_values_of(encode(picture(100, 150), "JPEG", exif=exif))
    assert np.abs(ours - expected).max() <= ONE_LEVEL


@pytest.mark.parametrize(
    ("height", "width", "to"), [(97, 131, (96, 128)), (480, 640, (256, 352)), (64, 64, (160, 160))]
)
def test_video_frames_are_resized_as_torchvision_does(height: int, width: int, to: tuple[int, int]) -> None:
    """What resizes uint8 video there is torch's antialiased bicubic interpolation; ours is Pillow's.

    torch keeps fewer bits of the filter weights, so noise (the worst there is) differs by two levels in a few places.
    """
    frame = np.asarray(picture(height, width))
    tensor = torch.from_numpy(frame.copy()).permute(2, 0, 1)[None]
    expected = torch.nn.functional.interpolate(tensor, size=to, mode="bicubic", antialias=True)[0].permute(1, 2, 0)
    difference = np.abs(resize_image(frame, *to).astype(int) - expected.numpy().astype(int))
    assert difference.max() <= 2
    assert (difference > 1).mean() < 1e-3
