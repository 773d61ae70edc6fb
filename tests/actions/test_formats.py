"""The tables themselves, pixels, and what a program outside sees."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime import actions
from edge_runtime.actions import Action
from edge_runtime.actions.format import FOLDER, FormatTable, load_table
from edge_runtime.engine.events import Finished, ImageShape
from edge_runtime.errors import BadAction, BadParameter, SmallImageWarning

WANTED = {
    "qwen_computer_use", "qwen_mobile_use", "gui_owl", "mai_ui", "ui_venus", "evocua", "step_gui", "pocket",
}  # fmt: skip
DOCS = Path(__file__).resolve().parents[2] / "docs" / "actions.md"


def test_the_formats_that_people_want_are_there() -> None:
    assert set(actions.names()) >= WANTED
    for name in actions.names():
        assert load_table(name).name == name


def test_the_page_lists_them() -> None:
    rows = dict(re.findall(r"^\| `([a-z_]+)` \|(.*)$", DOCS.read_text(encoding="utf-8"), re.MULTILINE))
    assert rows.keys() >= set(actions.names())
    for name in actions.names():
        table = load_table(name)
        assert f"| {table.divisor} |" in rows[name], name
        assert table.models in rows[name], name


def test_the_page_tells_every_kind() -> None:
    page = DOCS.read_text(encoding="utf-8")
    kinds = {row.kind for name in actions.names() for row in load_table(name).actions}
    assert all(f"`{kind}`" in page for kind in {*kinds, "refuse", "failed"})


def test_another_name_is_refused() -> None:
    for name in ("qwen", "../pocket", "", "pocket.toml"):
        with pytest.raises(BadParameter, match="known are evocua, gui_owl"):
            actions.get(name)


@pytest.mark.parametrize(
    ("table", "field", "value"),
    [
        ("qwen_computer_use", "divisor", 1920),
        ("qwen_computer_use", "colour", "red"),
        ("qwen_computer_use", "sources", {"divisor": "somebody"}),
        ("qwen_computer_use", "actions", []),
        (
            "mai_ui",
            "actions",
            [
                {
                    "says": "a",
                    "kind": "wait",
                    "arguments": [{"name": "d", "sets": "direction", "values": {"n": "north"}}],
                }
            ],
        ),
        ("mai_ui", "actions", [{"says": "a", "kind": "wait", "arguments": [{"name": "d", "sets": "direction"}]}]),
    ],
)
def test_tables_are_strict(table: str, field: str, value: object) -> None:
    raw = msgspec.to_builtins(load_table(table))
    assert msgspec.convert(raw, FormatTable) == load_table(table)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({**raw, field: value}, FormatTable)


def test_nothing_else_lies_in_the_folder() -> None:
    assert {path.suffix for path in FOLDER.iterdir()} == {".toml"}


SIDES = st.one_of(st.integers(1, 8), st.sampled_from([999, 1000, 1001, 3840]), st.integers(1, 100_000))


@given(SIDES, SIDES, st.sampled_from([999, 1000]), st.integers(0, 1000), st.integers(0, 1000))
def test_points_are_inside_the_frame_whatever_its_shape(width: int, height: int, divisor: int, x: int, y: int) -> None:
    there = Action("drag", point=(x, y), point2=(y, x), divisor=divisor).in_pixels(width, height)
    assert there.divisor is None
    assert there.point is not None
    assert there.point2 is not None
    for point in (there.point, there.point2):
        assert 0 <= point[0] < width
        assert 0 <= point[1] < height
    # The pixel holds the place: never more than one away from it, and the last one where the scale ends.
    place = x * width / divisor
    assert there.point[0] == width - 1 if place >= width else there.point[0] <= place < there.point[0] + 1


@given(SIDES, SIDES, st.integers(0, 1000), st.integers(0, 1000))
def test_one_rule_for_pixels(width: int, height: int, x: int, y: int) -> None:
    action = Action("click", point=(x, y), divisor=1000).in_pixels(width, height)
    assert action.point == ImageShape(width, height, 2000).to_pixels((x, y))


def test_pixels_are_made_once() -> None:
    action = Action("click", point=(1, 1), divisor=1000)
    with pytest.raises(BadParameter, match="pixels already"):
        action.in_pixels(10, 10).in_pixels(10, 10)
    with pytest.raises(BadParameter, match="0x10"):
        action.in_pixels(0, 10)
    assert Action("wait").in_pixels(10, 10) == Action("wait")


def answer(text: str, *images: ImageShape, finish_reason: str = "stop") -> Finished:
    return Finished("r", text, finish_reason, images=images)


def test_an_answer_tells_its_actions_in_pixels() -> None:
    big, small = ImageShape(2000, 1000, 2000), ImageShape(100, 100, 2000)
    said = '{"action":"click","x":500,"y":1000}'
    assert answer(said, big).actions("pocket") == [Action("click", point=(1000, 999))]
    assert answer(said, big, small).actions("pocket") == [Action("click", point=(50, 99))]
    assert answer(said, big, small).actions("pocket", image=0) == [Action("click", point=(1000, 999))]
    assert answer('{"action":"none"}').actions("pocket") == [Action("nothing")]
    with pytest.raises(BadParameter, match="the chat has 0"):
        answer(said).actions("pocket")
    with pytest.raises(BadAction, match="cut off"):
        answer("action:CLICK\tpoint:5,1", big, finish_reason="length").actions("step_gui")
    with pytest.warns(SmallImageWarning) as caught:
        answer(said, ImageShape(10, 10, 9)).actions("pocket")
    assert Path(caught[0].filename) == Path(__file__)
