"""The model in `pocket/weights`, in INT4: what it promises of its answers, and how often they are right.

The thresholds are far enough below the committed report (`pocket/reports`) that only another model misses them.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest

from edge_runtime.engine.pocket import pocket_bundle
from edge_runtime.errors import BundleError
from edge_runtime.model.manifest import load_manifest
from edge_runtime.model.pocket import checkpoint
from pocket.eval.bundle_model import BundleModel
from pocket.eval.case import Case
from pocket.eval.metrics import parse_action, parse_point
from pocket.eval.report import Result, evaluate, means
from pocket.eval.sets import small
from pocket.screens.questions import ABSENT
from pocket.screens.screen import KINDS

NUM_CASES = 120


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        return pocket_bundle(checkpoint(), tmp_path_factory.mktemp("cache"))
    except BundleError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    try:
        return list(islice(small(200), NUM_CASES))
    except FileNotFoundError as error:  # no fonts
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def results(bundle: Path, cases: list[Case]) -> list[Result]:
    return evaluate(BundleModel(bundle, max_tokens=160), cases)


def test_the_weights_are_small_enough_to_ship(bundle: Path) -> None:
    assert sum(path.stat().st_size for path in checkpoint().glob("*.safetensors")) <= 25_000_000
    assert load_manifest(bundle).quantization.decoder_linear.weights == "int4"


@pytest.mark.parametrize(
    ("task", "has_the_form"),
    [
        ("click", lambda answer: parse_action(answer) is not None),
        ("point", lambda answer: answer == ABSENT or parse_point(answer) is not None),
        ("kind", lambda answer: answer in KINDS),
        ("exists", lambda answer: answer in ("yes", "no")),
    ],
)
def test_answers_have_the_promised_form(results: list[Result], task: str, has_the_form: Callable[[str], bool]) -> None:
    answers = [result.answer for result in results if result.task == task]
    assert len(answers) >= 5
    assert [answer for answer in answers if not has_the_form(answer)] == []


def test_asking_twice_gives_the_same_answers(bundle: Path, cases: list[Case], results: list[Result]) -> None:
    again = evaluate(BundleModel(bundle, max_tokens=160), cases[:8])
    assert [result.answer for result in again] == [result.answer for result in results[:8]]


@pytest.mark.parametrize(
    ("metric", "at_least"),
    [("point", 0.88), ("read_exact", 0.85), ("state", 0.85), ("abstention", 0.9), ("json", 0.95)],
)
def test_it_is_about_as_good_as_its_report_says(results: list[Result], metric: str, at_least: float) -> None:
    mean, count = means(results)[metric]
    assert count >= 10
    assert mean >= at_least


def test_it_thinks_when_asked_to_and_only_then(bundle: Path, cases: list[Case]) -> None:
    asked = [case for case in cases if case.turn.task == "point"][:5]
    for think in (False, True):
        model = BundleModel(bundle, max_tokens=160, think=think)
        thoughts = [model.finish(case.images, case.messages).reasoning for case in asked]
        assert [bool(thought) for thought in thoughts] == [think] * len(asked)
