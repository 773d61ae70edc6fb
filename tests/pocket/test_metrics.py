"""Metrics on cases small enough to count by hand."""

from __future__ import annotations

import numpy as np
import pytest

from pocket.eval.case import Case
from pocket.eval.metrics import character_error_rate, f1, parse_action, parse_point, score
from pocket.screens.questions import ABSENT, NO_ACTION, Turn
from pocket.screens.screen import Element, Screen

PAY = Element("button", "Pay", (100, 60, 200, 90), (100, 60, 200, 90))  # 250-500 across, 469-703 down
TEA = Element("item", "Tea", (0, 0, 400, 30), (0, 0, 400, 30), value="$2.00")
SCREEN = Screen(400, 128, (TEA, PAY))


def case(task: str, answer: str, element: Element | None = None) -> Case:
    return Case("test/0/0", (np.zeros((128, 400, 3), np.uint8),), SCREEN, Turn(task, "?", answer, element=element))


@pytest.mark.parametrize(
    ("answer", "hit"),
    [("(370, 580)", 1), (" (250, 469)\n", 1), ("(500, 703)", 1), ("(249, 580)", 0), ("(370, 710)", 0), ("370, 580", 0),
     ("It is at (370, 580)", 0), (ABSENT, 0), ("", 0), ("(99999, 1)", 0)],
)  # fmt: skip
def test_pointing(answer: str, hit: int) -> None:
    scores = score(case("point", "(370, 590)", PAY), answer)
    assert scores == {"point": hit, "false_absent": float(answer == ABSENT)}


@pytest.mark.parametrize(
    ("answer", "action", "valid"),
    [('{"action":"click","x":370,"y":590}', 1, 1), ('{"action": "click", "x": 300, "y": 500}', 1, 1),
     ('{"action":"click","x":370,"y":100}', 0, 1), ('{"action":"click","x":370}', 0, 0),
     ('{"action":"click","x":"370","y":590}', 0, 0), ('{"action":"click","x":370,"y":590,"z":1}', 0, 0),
     ('{"action":"click","x":true,"y":590}', 0, 0), ('{"action":"click","x":3700,"y":590}', 0, 0),
     ('{"action":"type","x":370,"y":590,"text":"a"}', 0, 1), (NO_ACTION, 0, 1), ("(370, 590)", 0, 0),
     ('{"action":"click"', 0, 0), ("[]", 0, 0), ('{"action":["click"]}', 0, 0)],
)  # fmt: skip
def test_clicking(answer: str, action: int, valid: int) -> None:
    assert score(case("click", '{"action":"click","x":370,"y":590}', PAY), answer) == {"action": action, "json": valid}


def test_typing_needs_the_right_text() -> None:
    expected = '{"action":"type","x":370,"y":590,"text":"9 pm"}'
    assert score(case("type", expected, PAY), expected)["action"] == 1
    assert score(case("type", expected, PAY), expected.replace("9", "8")) == {"action": 0, "json": 1}


def test_doing_nothing() -> None:
    assert score(case("set", NO_ACTION, PAY), NO_ACTION) == {"action": 1, "json": 1}
    assert score(case("set", NO_ACTION, PAY), '{"action":"click","x":370,"y":590}') == {"action": 0, "json": 1}
    assert score(case("absent", NO_ACTION), NO_ACTION) == {"abstention": 1, "json": 1}
    assert score(case("absent", NO_ACTION), ABSENT) == {"abstention": 0, "json": 0}
    assert score(case("absent", ABSENT), ABSENT) == {"abstention": 1}
    assert score(case("absent", ABSENT), "(370, 590)") == {"abstention": 0}


def test_reading() -> None:
    assert score(case("read", "Tea", TEA), "Tea") == {"read_exact": 1, "read_cer": 0}
    assert score(case("title", "Tea", TEA), "Toa") == {"read_exact": 0, "read_cer": pytest.approx(1 / 3)}
    assert score(case("value", "$2.00", TEA), "") == {"read_exact": 0, "read_cer": 1}


@pytest.mark.parametrize(
    ("answer", "expected", "rate"),
    [("", "", 0), ("abc", "", 1), ("kitten", "sitting", 3 / 7), ("abcd", "abc", 1 / 3), ("bc", "abc", 1 / 3),
     ("a very long wrong answer", "abc", 1), ("ab", "ba", 1)],
)  # fmt: skip
def test_character_error_rate(answer: str, expected: str, rate: float) -> None:
    assert character_error_rate(answer, expected) == pytest.approx(rate)


def test_f1_counts_multisets() -> None:
    assert f1(["a", "b"], ["b", "a"]) == 1
    assert f1(["a"], ["a", "b", "c"]) == pytest.approx(0.5)
    assert f1(["a", "a"], ["a", "b"]) == pytest.approx(0.5)
    assert f1(["x"], ["a"]) == f1([], ["a"]) == f1(["a"], []) == 0


def test_listing() -> None:
    truth = 'item "Tea" (500, 120)\nbutton "Pay" (370, 590)'
    assert score(case("list", truth), truth) == {"list_f1": 1, "list_place_f1": 1}
    misplaced = 'button "Pay" (10, 10)\nitem "Tea" (500, 120)'
    assert score(case("list", truth), misplaced) == {"list_f1": 1, "list_place_f1": 0.5}
    assert score(case("list", truth), 'button "Pay" (370, 590)')["list_f1"] == pytest.approx(2 / 3)
    assert score(case("list", truth), 'link "Pay" (370, 590)') == {"list_f1": 0, "list_place_f1": 0}
    assert score(case("list", truth), "Tea and Pay") == {"list_f1": 0, "list_place_f1": 0}
    assert score(case("names", "Tea\nPay"), "Pay\nTea\nPie") == {"names_f1": pytest.approx(0.8)}


@pytest.mark.parametrize("task", ["kind", "state", "exists", "change"])
def test_one_right_answer(task: str) -> None:
    assert score(case(task, "Pay is now on"), "Pay is now on") == {task: 1}
    assert score(case(task, "Pay is now on"), "Pay is now off") == {task: 0}


def test_parsers_take_nothing_else() -> None:
    assert parse_point("(1, 2)") == (1, 2)
    assert parse_point("(1.5, 2)") is None
    assert parse_action("null") is None
    assert parse_action('{"action":"none","x":1}') is None
    assert parse_action(NO_ACTION) == {"action": "none"}
