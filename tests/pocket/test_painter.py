"""What the painter says it drew is where the pixels are."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from pocket.screens.labels import dense_labels
from pocket.screens.page import Widget
from pocket.screens.painter import measure, paint
from pocket.screens.shift import room_below, shift_down
from pocket.screens.templates import compose
from pocket.screens.words import Phrases
from tests.pocket.conftest import plain_page

pytestmark = pytest.mark.usefixtures("fonts")

WIDGETS = [
    Widget("title", "Quick order", 2, 20, 200), Widget("text", "Gypsy map", 2, 20, 200),
    Widget("link", "Jump", 2, 20, 200), Widget("button", "Pay", 2, 30, 120),
    Widget("checkbox", "Ice", 2, 20, 120, "checked"), Widget("radio", "Tap", 2, 20, 120, "selected", variant=1),
    Widget("switch", "Fan", 2, 20, 150, "on", variant=1), Widget("switch", "Fan", 2, 20, 150, "off", variant=3),
    Widget("field", "Name", 2, 20, 150, "filled", "Bob", 0), Widget("field", "Name", 2, 20, 200, "empty", "", 3),
    Widget("tab", "Home", 2, 20, 90, "selected"), Widget("item", "Tea", 2, 20, 150, "", "$2.00", 1),
    Widget("item", "Tea", 2, 20, 150, "", "$2.00", 7),
]  # fmt: skip


@pytest.mark.parametrize("widget", WIDGETS, ids=lambda widget: f"{widget.kind}-{widget.variant}")
def test_box_surrounds_exactly_what_was_drawn(widget: Widget) -> None:
    pixels, screen = paint(plain_page(widget))
    rows, columns = np.nonzero((pixels < 210).any(axis=-1))
    (element,) = screen.elements
    left, top, right, bottom = element.box
    drawn = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    assert left - 3 <= drawn[0], "something was drawn left of the box"
    assert top - 4 <= drawn[1], "something was drawn above the box"
    assert right + 3 >= drawn[2], "something was drawn right of the box"
    assert bottom + 4 >= drawn[3], "something was drawn below the box"
    assert drawn[2] - drawn[0] >= 0.8 * (right - left), "the box is much wider than what was drawn"
    assert drawn[3] - drawn[1] >= 0.4 * (bottom - top), "the box is much higher than what was drawn"


def test_every_letter_is_where_its_glyph_says() -> None:
    widget = Widget("text", "Hamburg 40x", 3, 17, 200)
    pixels, screen = paint(plain_page(widget))
    (element,) = screen.elements
    assert "".join(glyph.char for glyph in element.glyphs) == widget.name
    for glyph in element.glyphs:
        column, row = int(glyph.x), int(glyph.y)
        reach = 0 if glyph.char == " " else 3  # around the middle of a blank, neighbours have ink
        has_ink = bool((pixels[row - 6 : row + 7, column - reach : column + reach + 1] < 160).any())
        assert has_ink == (glyph.char != " "), glyph


def test_measure_says_the_same_as_paint() -> None:
    for seed in range(20):
        page = compose(Random(seed), Phrases("train"), 384, 256)
        assert measure(page) == paint(page)[1]


def test_what_does_not_fit_a_small_screen_is_left_out() -> None:
    """A dialog of seven rows used to begin above the top of a screen of four, and painting it failed."""
    for seed in range(60):
        page = compose(Random(seed), Phrases("train"), 128, 64)
        pixels, screen = paint(page)
        assert pixels.shape == (64, 128, 3)
        assert all(0 <= glyph.y < 64 for element in screen.elements for glyph in element.glyphs)


def test_one_tab_of_a_page_is_selected() -> None:
    num_pages = 0
    for split in ("train", "heldout"):
        for seed in range(60):
            screen = measure(compose(Random(seed), Phrases(split), 384, 256))
            tabs = [element.state for element in screen.elements if element.kind == "tab"]
            num_pages += len(tabs) > 1
            assert tabs.count("selected") <= 1
    assert num_pages > 10


def test_accent_text_can_be_read_on_its_page() -> None:
    for seed in range(200):
        theme = compose(Random(seed), Phrases("train"), 256, 128).theme
        assert abs(sum(theme.accent_ink) - sum(theme.paper)) > 150, (theme.accent_ink, theme.paper)


def test_dense_labels_spell_the_text() -> None:
    screen = measure(plain_page(Widget("text", "MAP WORM", 1, 8, 200)))
    labels = dense_labels(screen)
    rows = labels.chars.reshape(4, 8, 2, 8).transpose(0, 2, 1, 3).reshape(8, 64)
    assert "".join(chr(code + 31) for code in rows[1] if code) == "MAP WORM"
    assert not rows[[0, 2, 3, 4, 5, 6, 7]].any()


def test_a_screen_moved_as_far_as_it_can_keeps_all_elements() -> None:
    rendered = paint(compose(Random(3), Phrases("train"), 320, 256))
    pixels, screen = rendered
    room = room_below(screen)
    moved_pixels, moved = shift_down(rendered, room)
    assert [element.name for element in moved.elements] == [element.name for element in screen.elements]
    np.testing.assert_array_equal(moved_pixels[room:], pixels[: len(pixels) - room])
    assert len(shift_down(rendered, room + 1)[1].elements) < len(screen.elements)
