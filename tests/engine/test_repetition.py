"""The exact-repetition stop: runaway cycles are cut, what is repetitive on purpose is not."""

from __future__ import annotations

import itertools

import pytest

from edge_runtime.engine.repetition import MAX_PERIOD, MIN_REPEATS, MIN_TOKENS, RepetitionDetector
from tests.engine.fake_runner import EOS, FakeRunner, engine_of, last_of, request, run_all


def first_repeat(tokens: list[int]) -> int | None:
    """After how many tokens the detector speaks up."""
    detector = RepetitionDetector()
    for count, token in enumerate(tokens, 1):
        detector.feed(token)
        if detector.repeats:
            return count
    return None


@pytest.mark.parametrize("period", [1, 2, 3, 7, 8, 31, 32, 33, MAX_PERIOD])
def test_a_cycle_is_found_once_it_is_long_enough_whatever_came_before(period: int) -> None:
    cycle = list(range(100, 100 + period))
    wanted = max(MIN_TOKENS, MIN_REPEATS * period)
    before = [1, 2, 3, 4, 5]
    answer = before + list(itertools.islice(itertools.cycle(cycle), 2000))
    assert first_repeat(answer) == len(before) + wanted
    assert first_repeat(answer[: len(before) + wanted - 1]) is None


def test_a_cycle_that_is_too_long_or_broken_is_none() -> None:
    assert first_repeat(list(range(MAX_PERIOD + 1)) * 40) is None
    almost = [7] * (MIN_TOKENS - 1)
    assert first_repeat(([*almost, 8]) * 6) is None
    assert first_repeat([9, *almost, 8]) is None


@pytest.mark.parametrize(
    "text",
    [
        "-" * 80 + "\n" + "=" * 200,
        "[" + "0, " * 80 + "0]",
        "".join(f"{number}. item {number}\n" for number in range(300)),
        "| a | b |\n|---|---|\n" + "".join(f"| row {i} | ok |\n" for i in range(200)),
        "".join(f'{{"id": {i}, "value": 0}},' for i in range(200)),
    ],
)
def test_rules_lists_tables_and_json_are_no_runaways(text: str) -> None:
    assert first_repeat(list(text.encode())) is None  # byte for byte: more tokens than any tokenizer would make


def test_an_answer_that_repeats_itself_ends_only_where_that_was_asked_for() -> None:
    runner = FakeRunner(script={"hello": [*b"so: ", *b"na" * 300, EOS]}, max_context=1000)
    engine = engine_of(runner)
    engine.submit(request("a", max_tokens=900, stop_on_repetition=True))
    last = last_of(run_all(engine), "a")
    assert (last.finish_reason, last.text) == ("repetition", "so: " + "na" * (MIN_TOKENS // 2))
    engine.submit(request("b", max_tokens=900))
    assert last_of(run_all(engine), "b").finish_reason == "stop"


def test_the_end_token_and_max_tokens_say_so_themselves() -> None:
    runner = FakeRunner(script={"hello": [*b"n" * (MIN_TOKENS - 1), EOS], "long": [*b"n" * MIN_TOKENS]})
    engine = engine_of(runner)
    engine.submit(request("a", max_tokens=900, stop_on_repetition=True))
    assert last_of(run_all(engine), "a").finish_reason == "stop"
    engine.submit(request("b", "long", max_tokens=MIN_TOKENS - 1, stop_on_repetition=True))
    assert last_of(run_all(engine), "b").finish_reason == "length"
