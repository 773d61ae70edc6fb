"""The code that the vision tower is to speak can be read letter by letter."""

# ruff: noqa: E402 - what needs torch is imported after the check that it is there

from __future__ import annotations

from random import Random

import pytest

torch = pytest.importorskip("torch", reason="torch is missing: make parity")
pytest.importorskip("transformers", reason="transformers is missing: make parity")

from pocket.screens.labels import dense_labels
from pocket.screens.painter import measure
from pocket.screens.templates import dense_page
from pocket.screens.words import Phrases
from pocket.train.config import TEXT_HIDDEN
from pocket.train.heads import DenseBatch
from pocket.train.images import stack_labels
from pocket.train.oracle import Oracle

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def labels() -> DenseBatch:
    try:
        pages = [dense_page(Random(i), Phrases("train"), 256, 128) for i in range(3)]
        return stack_labels([dense_labels(measure(page)) for page in pages])
    except FileNotFoundError as error:  # no fonts
        pytest.skip(str(error))


def test_spelling_is_easy_with_the_codes_and_hard_with_those_of_other_tokens(labels: DenseBatch) -> None:
    oracle = Oracle(TEXT_HIDDEN)
    codes = oracle(labels)
    assert (labels.chars > 0).sum() > 300
    assert oracle.spelling(codes, labels) < 0.1
    assert oracle.spelling(codes.roll(1, dims=1), labels) > 3


def test_spelling_sees_one_wrong_letter(labels: DenseBatch) -> None:
    oracle = Oracle(TEXT_HIDDEN)
    wrong = DenseBatch(labels.chars.clone(), labels.kind, labels.state, labels.place)
    drawn = wrong.chars > 0
    where = drawn.nonzero()[17]
    wrong.chars[tuple(where)] = wrong.chars[tuple(where)] % 90 + 1  # another character
    count = int(drawn.sum())
    more = oracle.spelling(oracle(wrong), labels) - oracle.spelling(oracle(labels), labels)
    assert 3 / count < more < 12 / count
