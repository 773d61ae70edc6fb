"""Fonts: where they lie, how wide each character is, and cached glyph bitmaps at quarter-pixel positions.

Glyphs are drawn four times too large and averaged down, which is what a browser without hinting shows.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

CHARACTERS = "".join(chr(code) for code in range(32, 127))  # what can be drawn; index + 1 is the dense label
GLYPH_HEIGHT = 24  # rows of a glyph bitmap: the 16-pixel text row and 4 more above and below
BASELINE = 16  # row of the baseline in a glyph bitmap, 12 below the top of the text row
_SCALE = 4
DEBIAN_PACKAGES = "fonts-dejavu-core fonts-liberation fonts-noto-core fonts-open-sans fonts-roboto-unhinted fonts-inter"
_DEBIAN = Path("/usr/share/fonts")
_extra: list[Path] = []  # folders searched by file name before Debian's


def use_fonts(folder: Path) -> None:
    """Looks for font files in `folder` first. For machines without Debian's font packages; call before drawing."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder: put the font files listed in pocket/README.md there")
    _extra.insert(0, folder)


def font_file(relative: str) -> Path:
    """Where a font lies: in a folder given to `use_fonts`, or where Debian installs it."""
    for path in (*(folder / Path(relative).name for folder in _extra), _DEBIAN / relative):
        if path.exists():
            return path
    raise FileNotFoundError(f"{relative} is missing: apt install {DEBIAN_PACKAGES}")


@dataclass(frozen=True, slots=True)
class Family:
    """A typeface: its CSS name, two files, and the sizes in pixels at which its lines fit a 16-pixel row."""

    name: str
    regular: str
    bold: str
    sizes: tuple[int, ...]


FAMILIES = (
    Family("DejaVu Sans", "truetype/dejavu/DejaVuSans.ttf", "truetype/dejavu/DejaVuSans-Bold.ttf", (12, 13)),
    Family("Liberation Sans", "truetype/liberation/LiberationSans-Regular.ttf",
           "truetype/liberation/LiberationSans-Bold.ttf", (13, 14, 15)),
    Family("Noto Sans", "truetype/noto/NotoSans-Regular.ttf", "truetype/noto/NotoSans-Bold.ttf", (13, 14)),
    Family("Open Sans", "truetype/open-sans/OpenSans-Regular.ttf", "truetype/open-sans/OpenSans-Bold.ttf", (13, 14)),
    Family("Roboto", "truetype/roboto/unhinted/RobotoTTF/Roboto-Regular.ttf",
           "truetype/roboto/unhinted/RobotoTTF/Roboto-Bold.ttf", (13, 14, 15)),
    Family("Inter", "opentype/inter/Inter-Regular.otf", "opentype/inter/Inter-Bold.otf", (13, 14)),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Face:
    """One family at one weight and size; the key of every glyph cache."""

    family: int
    bold: bool
    size: int


@lru_cache(maxsize=256)
def _font(face: Face, scale: int) -> ImageFont.FreeTypeFont:
    family = FAMILIES[face.family]
    path = font_file(family.bold if face.bold else family.regular)
    return ImageFont.truetype(str(path), face.size * scale, layout_engine=ImageFont.Layout.BASIC)


@lru_cache(maxsize=65536)
def advance(face: Face, char: str) -> float:
    """How far the pen moves after `char`, in pixels."""
    return _font(face, 16).getlength(char) / 16


def text_width(face: Face, text: str) -> float:
    """Width of a line of text, in pixels, without kerning."""
    return sum(advance(face, char) for char in text)


@lru_cache(maxsize=65536)
def glyph(face: Face, char: str, quarter: int) -> tuple[NDArray[np.float32], int]:
    """Coverage of `char` in [0, 1], [GLYPH_HEIGHT, w], drawn `quarter`/4 pixels right, and the column it starts at."""
    font = _font(face, _SCALE)
    left, _, right, _ = font.getbbox(char, anchor="ls")
    pad = 2 - min(0, int(np.floor(left / _SCALE)))
    width = pad + int(np.ceil(right / _SCALE)) + 2
    canvas = Image.new("L", (width * _SCALE, GLYPH_HEIGHT * _SCALE))
    ImageDraw.Draw(canvas).text((pad * _SCALE + quarter, BASELINE * _SCALE), char, fill=255, font=font, anchor="ls")
    pixels = np.asarray(canvas, dtype=np.float32).reshape(GLYPH_HEIGHT, _SCALE, width, _SCALE)
    return pixels.mean(axis=(1, 3)) / 255, -pad
