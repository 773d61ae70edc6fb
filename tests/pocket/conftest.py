"""Pages without randomness for the painter, and what a machine needs to draw at all."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from pocket.screens.chromium import EXECUTABLE
from pocket.screens.fonts import FAMILIES, Face, font_file
from pocket.screens.page import Page, Theme, Widget
from tests.needs import CHROMIUM, skip_without


@pytest.fixture
def fonts() -> None:
    """Skips where the painter's typefaces are not installed."""
    try:
        for family in FAMILIES:
            for name in (family.regular, family.bold):
                font_file(name)
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture
def chromium() -> None:
    """Skips where pages cannot be rendered."""
    if find_spec("playwright") is None or not Path(EXECUTABLE).exists():
        skip_without(f"playwright or {EXECUTABLE}", CHROMIUM)


def plain_page(*widgets: Widget, width: int = 256, height: int = 128) -> Page:
    """White paper, black ink, no decoration: whatever is not white was drawn for a widget."""
    white, black = (255, 255, 255), (0, 0, 0)
    theme = Theme(Face(0, False, 13), black, white, white, (200, 200, 200), (0, 0, 160), white, (0, 0, 160),
                  (120, 120, 120), 0, 0, True)  # fmt: skip
    return Page(width, height, theme, widgets)
