"""A zip file of rendered screens: one PNG and one JSON record each. For pages that are too slow to draw on the fly."""

import io
import json
import zipfile
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pocket.screens.screen import Element, Glyph, Screen

Rendered = tuple[NDArray[np.uint8], Screen]


def write(path: Path, screens: Iterable[Rendered]) -> int:
    """Writes screens to a new archive; returns how many."""
    count = 0
    with zipfile.ZipFile(path, "w") as archive:
        for pixels, screen in screens:
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "PNG")
            archive.writestr(f"{count:05}.png", buffer.getvalue())
            archive.writestr(f"{count:05}.json", json.dumps(asdict(screen)))
            count += 1
    return count


def read(path: Path) -> list[Rendered]:
    """All screens of an archive, in order."""
    screens = []
    with zipfile.ZipFile(path) as archive:
        for name in sorted(name for name in archive.namelist() if name.endswith(".png")):
            with Image.open(io.BytesIO(archive.read(name))) as image:
                pixels = np.array(image.convert("RGB"))
            screens.append((pixels, _screen(json.loads(archive.read(name.replace(".png", ".json"))))))
    return screens


def by_size(screens: Iterable[Rendered]) -> list[list[Rendered]]:
    """Screens grouped by their size, since a batch holds one size only."""
    groups: dict[tuple[int, int], list[Rendered]] = {}
    for pixels, screen in screens:
        groups.setdefault((screen.width, screen.height), []).append((pixels, screen))
    return list(groups.values())


def _screen(record: dict[str, Any]) -> Screen:
    elements = []
    for one in record["elements"]:
        glyphs = tuple(Glyph(**glyph) for glyph in one["glyphs"])
        elements.append(Element(**{**one, "box": tuple(one["box"]), "target": tuple(one["target"]), "glyphs": glyphs}))
    return Screen(record["width"], record["height"], tuple(elements))
