"""The engine on a runner without a model: what it takes on and refuses, how answers end, and `generate`."""

from __future__ import annotations

import pytest

from edge_runtime.engine.events import Finished
from edge_runtime.engine.request import DEFAULT_MAX_TOKENS
from edge_runtime.engine.settings import EngineSettings
from edge_runtime.errors import (
    BadParameter,
    BadPrompt,
    ContextOverflow,
    InternalError,
    Overloaded,
)
from tests.engine.fake_runner import (
    EOS,
    FakeCache,
    FakeRunner,
    engine_of,
    last_of,
    request,
    run_all,
)


def test_a_scripted_answer_streams_and_ends_with_its_end_token():
    runner = FakeRunner(script={"hello": [*b"Hi you", EOS]})
    engine = engine_of(runner)
    engine.submit(request("a", "hello"))
    events = run_all(engine)["a"]
    assert [event.text for event in events[:-1]] == ["H", "i", " ", "y", "o", "u", ""]
    last = events[-1]
    assert isinstance(last, Finished)
    assert (last.text, last.reasoning, last.finish_reason) == ("Hi you", "", "stop")
    assert last.token_ids == (*b"Hi you", EOS)
    assert not runner.kv_cache.out
    assert not engine.has_work


def test_max_tokens_ends_an_answer_with_length():
    engine = engine_of(FakeRunner(script={"hello": [*b"abcdef", EOS]}))
    engine.submit(request("a", max_tokens=3))
    last = last_of(run_all(engine), "a")
    assert (last.text, last.finish_reason, last.token_ids) == ("abc", "length", tuple(b"abc"))


def test_an_end_token_at_the_last_place_is_a_stop():
    engine = engine_of(FakeRunner(script={"hello": [*b"ab", EOS]}))
    engine.submit(request("a", max_tokens=3))
    assert last_of(run_all(engine), "a").finish_reason == "stop"


def test_ignored_end_tokens_say_nothing_and_end_nothing():
    engine = engine_of(FakeRunner(script={"hello": [*b"ab", EOS, EOS, *b"cd"]}))
    engine.submit(request("a", max_tokens=5, ignore_eos=True))
    last = last_of(run_all(engine), "a")
    assert (last.text, last.finish_reason) == ("abc", "length")
    assert last.token_ids == (*b"ab", EOS, EOS, *b"c")


@pytest.mark.parametrize(
    ("length", "max_tokens", "message"),
    [(20, 1, "the prompt has 20 tokens, 0 of them"), (15, 6, "at most 5; it is 6")],
)
def test_overflow_is_refused_before_any_work(length: int, max_tokens: int, message: str):
    runner = FakeRunner(max_context=20)
    engine = engine_of(runner)
    with pytest.raises(ContextOverflow, match=message):
        engine.submit(request("a", "x" * length, max_tokens=max_tokens))
    assert not engine.has_work
    assert (runner.forwards, runner.encodes, runner.kv_cache.num_leases) == ([], [], 0)


def test_the_longest_answer_that_fits_is_taken_and_can_be_given():
    runner = FakeRunner(max_context=20, kv_cache=FakeCache(20), script={"x" * 15: list(b"12345")})
    engine = engine_of(runner)
    engine.submit(request("a", "x" * 15, max_tokens=5))
    assert last_of(run_all(engine), "a").text == "12345"


def test_an_answer_that_nobody_limited_takes_what_the_context_leaves():
    script = {"x" * 15: list(b"1234567")}
    engine = engine_of(FakeRunner(max_context=20, kv_cache=FakeCache(20), script=script))
    engine.submit(request("a", "x" * 15, max_tokens=None))
    last = last_of(run_all(engine), "a")
    assert (last.text, last.finish_reason) == ("12345", "length")
    with pytest.raises(ContextOverflow, match="the prompt has 20 tokens"):
        engine.submit(request("b", "x" * 20, max_tokens=None))


def test_an_answer_that_nobody_limited_has_a_limit():
    runner = FakeRunner(max_context=5000, kv_cache=FakeCache(5000), script={"hello": [*b"x" * 2000]})
    engine = engine_of(runner)
    engine.submit(request("a", max_tokens=None))
    assert len(last_of(run_all(engine), "a").token_ids) == DEFAULT_MAX_TOKENS


def test_a_cache_smaller_than_the_context_is_the_limit():
    with pytest.raises(ContextOverflow, match="context 10"):
        engine_of(FakeRunner(max_context=1000, kv_cache=FakeCache(10))).submit(request("a", "x" * 11))


def test_a_full_queue_is_overloaded_and_recovers():
    engine = engine_of(FakeRunner(), max_running=2, max_waiting=1)
    for name in "abc":
        engine.submit(request(name))
    with pytest.raises(Overloaded):
        engine.submit(request("d"))
    ended = run_all(engine)
    assert set(ended) == {"a", "b", "c"}
    engine.submit(request("d"))
    assert "d" in run_all(engine)


@pytest.mark.parametrize("text", ["refuse", "explode"])
def test_a_prompt_that_cannot_be_prepared_is_raised_and_forgotten(text: str, caplog: pytest.LogCaptureFixture):
    def explode(one):
        if one.messages[0].content[-1].text == "explode":
            raise ValueError("boom")

    engine = engine_of(FakeRunner(on_prepare=explode))
    with pytest.raises(BadPrompt if text == "refuse" else InternalError):
        engine.submit(request("a", text))
    assert not engine.has_work
    assert ("boom" in caplog.text) == (text == "explode")


def test_an_id_in_flight_is_refused_and_free_again_after_its_end():
    engine = engine_of(FakeRunner())
    engine.submit(request("a"))
    with pytest.raises(BadParameter, match="in flight"):
        engine.submit(request("a"))
    run_all(engine)
    engine.submit(request("a"))
    assert "a" in run_all(engine)


def test_generate_yields_the_events_of_its_request_and_keeps_those_of_others():
    engine = engine_of(FakeRunner(script={"hello": [*b"abc", EOS]}))
    engine.submit(request("other"))
    mine = list(engine.generate(request("mine")))
    assert {event.request_id for event in mine} == {"mine"}
    assert isinstance(mine[-1], Finished)
    assert last_of(run_all(engine), "other").text == "abc"


def test_two_generators_may_be_read_in_turn():
    engine = engine_of(FakeRunner(script={"hello": [*b"abc", EOS]}))
    first, second = engine.generate(request("1")), engine.generate(request("2"))
    pairs = list(zip(first, second, strict=True))
    assert [a.text for a, _ in pairs] == ["a", "b", "c", "", "abc"]
    assert [b.text for _, b in pairs] == ["a", "b", "c", "", "abc"]


def test_closing_a_generator_cancels_its_request_and_no_other():
    runner = FakeRunner(script={"hello": [*b"abc", EOS]})
    engine = engine_of(runner)
    engine.submit(request("other"))
    events = engine.generate(request("mine"))
    next(events)
    events.close()
    assert len(runner.kv_cache.out) == 1
    ended = run_all(engine)
    assert set(ended) == {"other"}
    assert not runner.kv_cache.out


def test_settings_that_could_never_run_a_chat_are_refused():
    for field in ("prefill_chunk", "max_running"):
        with pytest.raises(BadParameter, match=field):
            EngineSettings(**{field: 0})
    with pytest.raises(BadParameter, match="max_waiting"):
        EngineSettings(max_waiting=-1)
