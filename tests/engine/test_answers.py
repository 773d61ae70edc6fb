"""What an answer holds: text in whole characters, reasoning, stop strings, logprobs, timings."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.engine.events import Delta
from tests.engine.fake_runner import (
    END_THINK,
    EOS,
    THINK,
    VOCAB,
    FakeRunner,
    engine_of,
    last_of,
    request,
    run_all,
)


def test_timings_and_counts_of_an_answer():
    engine = engine_of(FakeRunner(script={"hello": [*b"abc", EOS]}))
    engine.submit(request("a", images=2))
    timings = last_of(run_all(engine), "a").timings
    assert (timings.decode_image_ms, timings.resize_ms, timings.vision_ms) == (2.0, 4.0, 6.0)
    assert (timings.prompt_tokens, timings.image_tokens, timings.output_tokens) == (19, 14, 4)
    assert 0 < timings.queue_ms < timings.first_token_ms < timings.total_ms
    assert 0 < timings.prefill_ms <= timings.first_token_ms - timings.queue_ms
    assert timings.first_token_ms + timings.decode_ms == pytest.approx(timings.total_ms)


def test_a_stop_string_across_tokens_is_never_shown():
    runner = FakeRunner(script={"hello": [*b"one END two", EOS]})
    engine = engine_of(runner)
    engine.submit(request("a", stop=(" END",), max_tokens=20))
    last = last_of(run_all(engine), "a")
    assert (last.text, last.finish_reason) == ("one", "stop")
    assert last.token_ids == tuple(b"one END"), "the answer goes on after its stop string"


def test_held_back_text_comes_out_at_the_end():
    engine = engine_of(FakeRunner(script={"hello": [*b"to be EN", EOS]}))
    engine.submit(request("a", stop=("END",), max_tokens=20))
    assert last_of(run_all(engine), "a").text == "to be EN"


def test_reasoning_is_streamed_apart_from_the_answer():
    script = [THINK, *b"\nhm END\n", END_THINK, *b"\n\nyes END no", EOS]
    engine = engine_of(FakeRunner(script={"hello": script}))
    engine.submit(request("a", max_tokens=50, stop=(" END",)))
    last = last_of(run_all(engine), "a")
    assert (last.reasoning, last.text) == ("hm END", "yes")
    assert last.token_ids == tuple(script[: script.index(ord("D"), script.index(END_THINK)) + 1])


def test_a_prompt_that_opens_think_starts_in_the_reasoning_channel():
    engine = engine_of(FakeRunner(script={"why<think>": [*b"so\n", END_THINK, *b"\nok", EOS]}))
    engine.submit(request("a", "why<think>"))
    last = last_of(run_all(engine), "a")
    assert (last.reasoning, last.text) == ("so", "ok")


def test_characters_of_several_tokens_come_out_whole():
    engine = engine_of(FakeRunner(script={"hello": [*"né 你🙂".encode(), EOS]}))
    engine.submit(request("a", max_tokens=40))
    events = run_all(engine)["a"]
    assert [event.text for event in events if isinstance(event, Delta)] == ["n", "é", " ", "你", "🙂", ""]


def test_a_character_cut_off_by_max_tokens_is_replaced():
    engine = engine_of(FakeRunner(script={"hello": list("🙂".encode())}))
    engine.submit(request("a", max_tokens=3))
    assert last_of(run_all(engine), "a").text == "\N{REPLACEMENT CHARACTER}"


def test_logprobs_travel_with_their_tokens():
    engine = engine_of(FakeRunner(script={"hello": [*"aé".encode(), EOS]}))
    engine.submit(request("a", num_logprobs=2, repetition_penalty=1.5, temperature=0.5, top_k=1))
    deltas = [event for event in run_all(engine)["a"] if isinstance(event, Delta)]
    assert [len(delta.token_ids) for delta in deltas] == [1, 2, 1]
    for delta in deltas:
        assert delta.logprobs is not None
        assert tuple(entry.token_id for entry in delta.logprobs) == delta.token_ids
        for entry in delta.logprobs:
            assert entry.logprob == pytest.approx(10 - np.log(np.exp(10) + VOCAB - 1), abs=1e-6)
            assert entry.top[0] == (entry.token_id, entry.logprob)
            assert entry.top[1] == (0, pytest.approx(-np.log(np.exp(10) + VOCAB - 1), abs=1e-6))


def test_without_logprobs_deltas_carry_none():
    engine = engine_of(FakeRunner())
    engine.submit(request("a"))
    assert all(event.logprobs is None for event in run_all(engine)["a"] if isinstance(event, Delta))
