"""Drafts in the engine, with a runner whose logits are a script or noise: they change how many runs there are, only."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_runtime.engine.engine import Engine
from edge_runtime.engine.events import Delta, Event, Failed, Finished
from edge_runtime.engine.model_runner import Step
from edge_runtime.engine.repetition import MIN_TOKENS
from edge_runtime.engine.settings import EngineSettings
from edge_runtime.errors import Cancelled
from tests.engine.fake_runner import (
    EOS,
    IMAGE,
    VOCAB,
    FakeCache,
    FakeLog,
    FakeRunner,
    last_of,
    request,
    run_all,
)

TEXT = "The quick brown fox jumps over the lazy dog. "
COPIES: list[int] = [*TEXT.encode()] * 6


def engine_of(runner: FakeRunner, **settings: int) -> Engine:
    """All runs seem to take equally long: drafts are as long as they may be. Requests that do not say have drafts."""
    seconds = itertools.count()
    return Engine(
        runner,
        EngineSettings(**{"prefill_chunk": 16, "speculates": True, **settings}),
        clock=lambda: float(next(seconds)),
    )


def runner_of(script: list[int] | None = None, text: str = TEXT, **fields: Any) -> FakeRunner:
    scripts = {} if script is None else {text: script}
    return FakeRunner(**{"max_context": 4000, "kv_cache": FakeCache(8000, block_size=4), "script": scripts, **fields})


def answer(runner: FakeRunner, text: str = TEXT, **fields: Any) -> tuple[Finished, list[Event]]:
    engine = engine_of(runner)
    engine.submit(request("a", text, **{"max_tokens": 200, **fields}))
    events = run_all(engine)
    assert runner.kv_cache.free_tokens == runner.kv_cache.max_tokens
    return last_of(events, "a"), events["a"]


def both(make: Callable[[], FakeRunner], text: str = TEXT, **fields: Any) -> tuple[Finished, Finished]:
    """The answer with drafts and the one without, which agree in all but timings."""
    drafted, events = answer(make(), text, **fields)
    plain, others = answer(make(), text, speculation=False, **fields)
    for one in ("text", "reasoning", "token_ids", "finish_reason"):
        assert getattr(drafted, one) == getattr(plain, one)
    assert logprobs_of(events) == logprobs_of(others)
    assert plain.timings.drafted_tokens == plain.timings.accepted_tokens == 0
    return drafted, plain


def logprobs_of(events: Sequence[Event]) -> list[object]:
    return [one for event in events if isinstance(event, Delta) for one in event.logprobs or ()]


def test_what_is_said_again_takes_few_runs() -> None:
    runner = runner_of(COPIES)
    done, _ = answer(runner)
    assert list(done.token_ids) == COPIES[:200]
    assert done.timings.accepted_tokens > 150
    assert done.timings.accepted_tokens <= done.timings.drafted_tokens < 1.2 * done.timings.accepted_tokens
    assert len(runner.forwards) < 40
    assert max(count for run in runner.forwards for _, count in run) == 17


def test_who_wants_none_has_none() -> None:
    runner = runner_of(COPIES)
    done, _ = answer(runner, speculation=False)
    assert list(done.token_ids) == COPIES[:200]
    assert [run for run in runner.forwards if run != [("a", 1)]] == runner.forwards[:3], "three chunks of the prompt"


def test_where_runs_change_numbers_only_who_wants_them_has_drafts() -> None:
    for wants, has in ((None, False), (True, True)):
        engine = engine_of(runner_of(COPIES), speculates=False)
        engine.submit(request("a", TEXT, max_tokens=100, speculation=wants))
        assert bool(last_of(run_all(engine), "a").timings.drafted_tokens) is has


@pytest.mark.parametrize("max_tokens", [1, 2, 3, 20, 57, 58, 59, 60, 61])
def test_the_length_is_kept(max_tokens: int) -> None:
    drafted, _ = both(lambda: runner_of(COPIES), max_tokens=max_tokens)
    assert (len(drafted.token_ids), drafted.finish_reason) == (max_tokens, "length")


@pytest.mark.parametrize("place", range(100, 120))
def test_an_end_inside_a_draft_is_the_end(place: int) -> None:
    drafted, _ = both(lambda: runner_of([*COPIES[:place], EOS]))
    assert (len(drafted.token_ids), drafted.finish_reason) == (place + 1, "stop")
    assert drafted.timings.accepted_tokens > 50


def test_ends_that_are_passed_over() -> None:
    script = [*COPIES[:60], EOS] * 3
    drafted, _ = both(lambda: runner_of(script), max_tokens=len(script), ignore_eos=True)
    assert list(drafted.token_ids) == script
    assert drafted.timings.accepted_tokens > 60


def test_a_stop_string_inside_a_draft_ends_the_answer() -> None:
    script = [*COPIES[:90], *b" jumps over! ", *COPIES]
    drafted, _ = both(lambda: runner_of(script), stop=("over!",))
    assert drafted.text == bytes(COPIES[:90]).decode() + " jumps "
    assert drafted.finish_reason == "stop"


def test_a_repetition_is_noticed_at_the_same_token() -> None:
    drafted, _ = both(lambda: runner_of([*b"well: ", *b"no " * 400]), max_tokens=900, stop_on_repetition=True)
    assert drafted.finish_reason == "repetition"
    assert MIN_TOKENS <= len(drafted.token_ids) < MIN_TOKENS + 20
    assert drafted.timings.accepted_tokens > 200


@pytest.mark.parametrize("budget", [10, 50])
def test_a_budget_of_thoughts_holds(budget: int) -> None:
    text = TEXT + "<think>"
    drafted, _ = both(lambda: runner_of(COPIES, text), text, thinking_budget=budget, max_tokens=120)
    assert drafted.timings.reasoning_tokens == budget


def test_drafts_obey_the_grammar() -> None:
    """What was said before is not what may be said now."""
    schema = {"type": "array", "items": {"enum": ["brown fox", "lazy dog"]}, "minItems": 9, "maxItems": 12}
    fields = {"schema": json.dumps(schema), "max_tokens": 300}
    drafted, _ = both(runner_of, temperature=1.0, seed=3, **fields)
    assert set(json.loads(drafted.text)) <= {"brown fox", "lazy dog"}


class Copyist(FakeRunner):
    """Mostly says what its prompt says, from the start again and again; sometimes not. Depends on the cache alone."""

    def logits(self, log: FakeLog, tokens: list[int]) -> NDArray[np.float32]:
        noise = super().logits(log, tokens)
        noise[128:] = -100.0
        noise[tokens[(len(tokens) - log.num_prompt) % log.num_prompt]] += 11.0
        return noise


OPTIONS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampled": {"temperature": 1.0, "seed": 5},
    "nucleus": {"temperature": 1.3, "seed": 6, "top_p": 0.9, "top_k": 20, "min_p": 0.01},
    "penalties": {"repetition_penalty": 1.1, "presence_penalty": 0.3, "frequency_penalty": 0.1},
    "sampled with penalties": {"temperature": 0.8, "seed": 7, "frequency_penalty": 0.2},
    "logprobs": {"num_logprobs": 3, "temperature": 0.7, "seed": 8},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_tokens_and_logprobs_are_the_same(options: dict[str, Any]) -> None:
    drafted, _ = both(lambda: Copyist(4000, FakeCache(8000, block_size=4)), max_tokens=400, **options)
    assert len(drafted.token_ids) == 400
    assert 50 < drafted.timings.accepted_tokens < drafted.timings.drafted_tokens, "some come true, some do not"


@pytest.mark.parametrize("max_running", [1, 3, 4])
def test_chats_together_are_answered_as_alone_and_without(max_running: int) -> None:
    def answers(**fields: Any) -> dict[str, tuple[int, ...]]:
        engine = engine_of(Copyist(4000, FakeCache(8000, block_size=4)), max_running=max_running)
        for number, options in enumerate(OPTIONS.values()):
            text = TEXT[number:] * (1 + number % 2)
            engine.submit(request(str(number), text, images=number % 3, max_tokens=120, **options, **fields))
        events = run_all(engine)
        return {name: last_of(events, name).token_ids for name in events}

    assert answers() == answers(speculation=False)


def test_images_are_never_drafted() -> None:
    text = "see: "
    runs: list[list[int]] = []

    def look(steps: Sequence[Step]) -> None:
        runs.extend(step.token_ids[-step.num_logits :].tolist() for step in steps if step.num_logits > 1)

    runner = runner_of([*b"see: see: see: see: "] * 4, text, on_forward=look)
    engine = engine_of(runner)
    engine.submit(request("a", text, images=2, max_tokens=70))
    done = last_of(run_all(engine), "a")
    assert done.timings.accepted_tokens > 20
    assert not any(IMAGE in run for run in runs)


def test_a_run_that_fails_is_repeated_chat_by_chat_with_the_same_tokens() -> None:
    def answers(fails: bool) -> dict[str, tuple[int, ...]]:
        def fail(steps: Sequence[Step]) -> None:
            if fails and len(steps) > 1 and any(step.num_logits > 4 for step in steps):
                raise RuntimeError("a bad moment")

        engine = engine_of(Copyist(4000, FakeCache(8000, block_size=4), on_forward=fail))
        for name in "abc":
            engine.submit(request(name, TEXT + name, max_tokens=90))
        events = run_all(engine)
        return {name: last_of(events, name).token_ids for name in events}

    assert answers(fails=True) == answers(fails=False)


@pytest.mark.parametrize("num_runs", [20, 25, 30])
def test_a_cancelled_chat_leaves_no_drafts_behind(num_runs: int) -> None:
    """Whoever finds its tokens again finds those that it said."""
    runner = Copyist(4000, FakeCache(8000, block_size=4, reuses=True))
    engine = engine_of(runner)

    def cancel(steps: Sequence[Step]) -> None:
        if len(runner.forwards) == num_runs:
            engine.cancel("a")

    runner.on_forward = cancel
    engine.submit(request("a", TEXT, max_tokens=900))
    last = run_all(engine)["a"][-1]
    assert isinstance(last, Failed)
    assert isinstance(last.error, Cancelled)
    assert runner.kv_cache.free_tokens == runner.kv_cache.max_tokens
    engine.submit(request("b", TEXT, max_tokens=100))
    fresh = engine_of(Copyist(4000, FakeCache(8000, block_size=4)))
    fresh.submit(request("b", TEXT, max_tokens=100, speculation=False))
    assert last_of(run_all(engine), "b").token_ids == last_of(run_all(fresh), "b").token_ids


def test_what_is_found_again_is_what_was_said() -> None:
    """An answer that had drafts, as the beginning of the next prompt."""
    runner = Copyist(4000, FakeCache(8000, block_size=4, reuses=True))
    engine = engine_of(runner)
    engine.submit(request("a", TEXT, max_tokens=151))
    said = last_of(run_all(engine), "a")
    assert said.timings.accepted_tokens > 20
    longer = TEXT + bytes(said.token_ids).decode()
    engine.submit(request("b", longer, max_tokens=50))
    again = last_of(run_all(engine), "b")
    assert again.timings.cached_tokens == again.timings.prompt_tokens - 1
    fresh, _ = answer(Copyist(4000, FakeCache(8000, block_size=4)), longer, max_tokens=50, speculation=False)
    assert again.token_ids == fresh.token_ids


class Dice(FakeRunner):
    """The same three tokens at every place, with chances of 0.5, 0.3 and 0.2."""

    def logits(self, log: FakeLog, tokens: list[int]) -> NDArray[np.float32]:
        logits = np.full(VOCAB, -np.inf, dtype=np.float32)
        logits[[ord("a"), ord("b"), ord("c")]] = np.log([0.5, 0.3, 0.2])
        return logits


def test_what_is_drawn_has_the_models_own_distribution() -> None:
    """Also of pairs: behind a token that was drafted, and behind one that was not."""
    tokens: list[int] = []
    drafted = accepted = 0
    for seed in range(8):
        runner = Dice(4000, FakeCache(4000))
        done, _ = answer(runner, "aaaabaabaaac", max_tokens=800, temperature=1.0, seed=seed)
        tokens += done.token_ids
        drafted += done.timings.drafted_tokens
        accepted += done.timings.accepted_tokens
    assert min(accepted, drafted - accepted) > 1000
    chances = {ord("a"): 0.5, ord("b"): 0.3, ord("c"): 0.2}
    singles = Counter(tokens)
    pairs = Counter(itertools.pairwise(tokens))
    chi = sum((singles[one] - len(tokens) * p) ** 2 / (len(tokens) * p) for one, p in chances.items())
    assert chi < 13.8  # 2 degrees of freedom: one in a thousand
    expected = {(x, y): (len(tokens) - 1) * p * q for x, p in chances.items() for y, q in chances.items()}
    assert sum((pairs[pair] - count) ** 2 / count for pair, count in expected.items()) < 26.1  # 8 degrees


def test_info_counts_drafts() -> None:
    engine = engine_of(runner_of(COPIES))
    engine.submit(request("a", TEXT, max_tokens=100))
    done = last_of(run_all(engine), "a")
    engine.step()
    assert engine.cache_info.drafted_tokens == done.timings.drafted_tokens > 0
    assert engine.cache_info.accepted_tokens == done.timings.accepted_tokens > 0
