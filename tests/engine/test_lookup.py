"""What a lookup finds in a log: the latest of the longest matches, and never anything of an image."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_runtime.engine.lookup import MAX_MATCH, MIN_MATCH, Lookup, Match

IMAGE, EOS = 90, 91


def log(*ids: int) -> NDArray[np.int64]:
    return np.array(ids, dtype=np.int64)


@pytest.fixture
def lookup() -> Lookup:
    return Lookup({IMAGE, EOS})


def found(lookup: Lookup, ids: NDArray[np.int64], most: int = 4) -> list[int]:
    match = lookup.find(ids)
    return [] if match is None else lookup.draft(ids, match, most).tolist()


def test_what_followed_is_drafted(lookup: Lookup) -> None:
    assert lookup.find(log(1, 2, 3, 4, 5, 9, 2, 3)) == Match(3, 2)
    assert found(lookup, log(1, 2, 3, 4, 5, 9, 2, 3)) == [4, 5, 9, 2]


def test_the_longer_match_wins(lookup: Lookup) -> None:
    assert found(lookup, log(1, 2, 3, 40, 7, 2, 3, 50, 8, 1, 2, 3), 1) == [40]


def test_of_equally_long_ones_the_latest_wins(lookup: Lookup) -> None:
    assert found(lookup, log(1, 2, 3, 40, 7, 1, 2, 3, 50, 8, 1, 2, 3), 1) == [50]


def test_matches_are_compared_no_further_than_the_most(lookup: Lookup) -> None:
    text = list(range(1, 30))
    ids = log(80, *text, 40, 81, *text, 50, 80, *text)
    assert lookup.find(ids) == Match(2 * len(text) + 3, MAX_MATCH)


@pytest.mark.parametrize("ids", [(), (1,), (1, 1), (1, 2, 3), (1, 2, 9, 3, 2)])
def test_nothing_is_drafted_where_nothing_is_said_again(lookup: Lookup, ids: tuple[int, ...]) -> None:
    assert lookup.find(log(*ids)) is None


def test_a_cycle_goes_on(lookup: Lookup) -> None:
    assert found(lookup, log(9, 1, 2, 3, 1, 2, 3, 1), 7) == [2, 3, 1, 2, 3, 1, 2]
    assert found(lookup, log(5, 7, 7, 7), 3) == [7, 7, 7]


def test_no_image_is_drafted_nor_what_follows_it(lookup: Lookup) -> None:
    ids = log(1, 2, 3, IMAGE, IMAGE, 4, 5, 1, 2)
    assert found(lookup, ids) == [3]
    assert found(lookup, log(1, 2, IMAGE, IMAGE, 4, 5, 1, 2)) == []


def test_images_are_not_compared(lookup: Lookup) -> None:
    ids = log(1, IMAGE, IMAGE, IMAGE, 2, 3, 40, 8, 2, 3, 50, 1, IMAGE, IMAGE, IMAGE, 2, 3)
    assert lookup.find(ids) == Match(10, 2)
    assert lookup.find(log(1, 2, IMAGE, IMAGE, 8, IMAGE, IMAGE)) is None


def test_no_end_is_drafted(lookup: Lookup) -> None:
    assert found(lookup, log(1, 2, 3, EOS, 4, 1, 2)) == [3]


def test_only_the_latest_of_very_many_places_are_looked_at(lookup: Lookup) -> None:
    ids = log(*[3, 4, 5, 6, 4, 5] * 400, 7, 3, 4, 5)
    assert lookup.find(ids) == Match(6 * 399 + 3, 3)


@given(st.lists(st.integers(0, 3), max_size=60), st.integers(1, 8))
def test_it_finds_what_a_plain_search_finds(tokens: list[int], most: int) -> None:
    wall = 0
    ids, lookup = log(*tokens), Lookup({wall})
    best: Match | None = None
    for start in range(1, len(tokens)):
        length = 0
        while (
            length < min(start, MAX_MATCH)
            and tokens[start - 1 - length] == tokens[len(tokens) - 1 - length]
            and tokens[start - 1 - length] != wall
        ):
            length += 1
        if length >= MIN_MATCH and (best is None or length >= best.length):
            best = Match(start, length)
    assert lookup.find(ids) == best
    if best is not None:
        draft = lookup.draft(ids, best, most).tolist()
        going_on = list(tokens)
        for index in range(most):
            going_on.append(going_on[best.start + index])
        expected = going_on[len(tokens) :]
        assert draft == expected[: expected.index(wall) if wall in expected else None]
