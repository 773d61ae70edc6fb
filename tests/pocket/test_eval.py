"""The held-out sets are the same every time, and the evaluator tells a perfect model from a useless one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from random import Random

import numpy as np
import pytest

from pocket.eval.__main__ import contenders
from pocket.eval.case import Case, Image, Messages
from pocket.eval.report import METRICS, Result, as_json, evaluate, markdown, means, write
from pocket.eval.sets import PAGES, chats, handwritten_page, painted
from pocket.screens.chromium import browser, render
from pocket.screens.html import html_page
from pocket.screens.words import Phrases

LOWER_IS_BETTER = {"read_cer", "false_absent"}


class Perfect:
    """Knows the answers by heart, in order; checks that it is asked properly."""

    def __init__(self, cases: Sequence[Case]) -> None:
        self._pending = iter(cases)

    def __call__(self, images: Sequence[Image], messages: Messages) -> str:
        case = next(self._pending)
        (message,) = messages
        assert [part["type"] for part in message["content"]] == ["image"] * len(images) + ["text"]
        assert message["content"][-1]["text"] == case.turn.question
        return case.turn.answer


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    try:
        return list(painted(24))
    except FileNotFoundError as error:  # no fonts
        pytest.skip(str(error))


def test_painted_screens_are_the_same_every_time(cases: list[Case]) -> None:
    again = list(painted(24))
    assert [case.turn for case in again] == [case.turn for case in cases]
    for one, other in zip(cases, again, strict=True):
        for image, image_again in zip(one.images, other.images, strict=True):
            np.testing.assert_array_equal(image, image_again)


def test_chats_ask_three_questions_about_one_screen() -> None:
    try:
        cases = list(chats(12))
    except FileNotFoundError as error:  # no fonts
        pytest.skip(str(error))
    assert len(cases) >= 6
    for case in cases:
        roles = [message["role"] for message in case.messages]
        assert roles == ["user", "assistant", "user", "assistant", "user"]
        kinds = [part["type"] for message in case.messages for part in message["content"]]
        assert kinds == ["image", "text", "text", "text", "text", "text"]
        assert case.messages[1]["content"][0]["text"] == case.before[0].answer
        assert case.messages[-1]["content"][0]["text"] == case.turn.question


def test_painted_screens_ask_for_everything(cases: list[Case]) -> None:
    tasks = {case.turn.task for case in cases}
    assert tasks >= {"point", "click", "read", "title", "value", "kind", "state", "list", "names", "absent", "change"}
    assert len({case.name for case in cases}) == len(cases)
    assert all(len(case.images) == (2 if case.turn.task == "change" else 1) for case in cases)
    assert all(image.shape == (case.screen.height, case.screen.width, 3) for case in cases for image in case.images)


def test_a_perfect_model_gets_full_marks(cases: list[Case]) -> None:
    results = evaluate(Perfect(cases), cases)
    table = means(results)
    assert set(table) == set(METRICS)
    assert all(mean == (0 if name in LOWER_IS_BETTER else 1) for name, (mean, _) in table.items()), table
    assert all(result.is_right for result in results)


@pytest.mark.parametrize("answer", ["", "?", "zq zq zq", "{}", "(0, 1000)"])
def test_a_useless_model_gets_none(cases: list[Case], answer: str) -> None:
    results = evaluate(lambda images, messages: answer, cases)
    table = means(results)
    assert {name: mean for name, (mean, _) in table.items() if name not in LOWER_IS_BETTER and mean > 0} == {}
    assert table["read_cer"][0] > 0.8
    assert not any(result.is_right for result in results)


def test_report_has_a_column_per_model(tmp_path: Path) -> None:
    def result(answer: str, value: float) -> Result:
        return Result("set/0/0", "kind", "What is Pay?", "button", answer, {"kind": value})

    answered = {"painted": {"fp32": [result("button", 1), result("button", 1)], "int4": [result("button", 1),
                                                                                      result("link", 0)]}}  # fmt: skip
    text = markdown(answered)
    assert "| | answers | ± | fp32 | int4 |\n|---|---:|---:|---:|---:|\n" in text
    assert "| kind | 2 | 33 | 100.0% | 50.0% |" in text  # Wilson's interval for 2 of 2 is 34% to 100%
    assert "| the same answer as fp32 | 2 | | 100.0% | 50.0% |" in text
    data = as_json(answered)["painted"]["int4"]
    assert data["metrics"] == {"kind": {"mean": 0.5, "answers": 2}}
    assert [mistake["answer"] for mistake in data["mistakes"]] == ["link"]
    write(answered, tmp_path / "reports" / "pocket.md", "Pocket")
    assert (tmp_path / "reports" / "pocket.md").read_text().startswith("# Pocket\n\n## painted: 2 questions about 1")
    assert json.loads((tmp_path / "reports" / "pocket.json").read_text()) == as_json(answered)


def test_a_bundle_is_asked_with_each_kind_of_keys_and_values() -> None:
    one, other = Path("a/int4"), Path("b/int4")
    assert contenders([one], [None]) == {"int4": (one, None)}
    assert contenders([one], ["int8", "fp32"]) == {"int4, int8 KV": (one, "int8"), "int4, fp32 KV": (one, "fp32")}
    assert list(contenders([one, other], [None])) == [str(one), str(other)]
    assert len(contenders([one], ["int8", "int8"])) == 1  # which main refuses


@pytest.mark.slow
@pytest.mark.usefixtures("chromium")
def test_pages_show_all_that_is_written_on_them() -> None:
    with browser() as tab:
        for path in sorted(PAGES.glob("*.html")):
            page = handwritten_page(path)
            pixels, screen = render(tab, page)
            assert pixels.shape == (page.height, page.width, 3)
            assert len(screen.elements) == page.html.count("data-kind="), path.stem
            assert len({element.name for element in screen.elements}) == len(screen.elements), path.stem
            assert page.width % 32 == page.height % 32 == 0


@pytest.mark.slow
@pytest.mark.usefixtures("chromium")
def test_chromium_draws_letters_where_it_says() -> None:
    with browser() as tab:
        pixels, screen = render(tab, html_page(Random("draw"), Phrases("train")))
    assert screen.elements
    for element in screen.elements:
        left, top, right, bottom = (max(0, round(edge)) for edge in element.box)
        region = pixels[top:bottom, left:right].astype(int)
        assert region.max() - region.min() > 40, f"{element.name} cannot be seen in its box"
        spelled = "".join(glyph.char for glyph in element.glyphs)
        assert spelled == element.name + element.value
