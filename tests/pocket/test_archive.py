"""What is written to an archive of screens comes back bit for bit."""

from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np
import pytest

from pocket.screens.archive import by_size, read, write
from pocket.screens.painter import paint
from pocket.screens.templates import compose
from pocket.screens.words import Phrases


@pytest.mark.usefixtures("fonts")
def test_round_trip(tmp_path: Path) -> None:
    sizes = ((320, 256), (256, 128), (320, 256))
    screens = [paint(compose(Random(i), Phrases("train"), *size)) for i, size in enumerate(sizes)]
    assert write(tmp_path / "screens.zip", screens) == 3
    back = read(tmp_path / "screens.zip")
    for (pixels, screen), (pixels_back, screen_back) in zip(screens, back, strict=True):
        np.testing.assert_array_equal(pixels, pixels_back)
        assert screen == screen_back
    assert sorted(len(group) for group in by_size(back)) == [1, 2]
