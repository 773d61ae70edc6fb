"""The engine on a runner without a model: order, limits, isolation of errors, and what an answer holds."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from edge_runtime.engine.engine import Engine
from edge_runtime.engine.events import Delta, Failed, Finished
from edge_runtime.engine.settings import EngineSettings
from edge_runtime.errors import (
    BadImage,
    BadParameter,
    BadPrompt,
    ContextOverflow,
    InternalError,
    Overloaded,
)
from tests.engine.fake_runner import (
    END_THINK,
    EOS,
    THINK,
    TOKENS_PER_IMAGE,
    FakeCache,
    FakeRunner,
    by_request,
    last_of,
    request,
    run_all,
)


def engine_of(runner: FakeRunner, **settings: int) -> Engine:
    return Engine(runner, EngineSettings(**{"prefill_chunk": 4, **settings}))


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


def test_chunked_prefill_runs_each_prompt_token_once():
    runner = FakeRunner()
    engine = engine_of(runner, prefill_chunk=4)
    engine.submit(request("a", "x" * 10, max_tokens=2))
    run_all(engine)
    assert runner.forwards == [[("a", 4)], [("a", 4)], [("a", 2)], [("a", 1)]]


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 8, 9, 1000])
def test_chunked_prefill_gives_the_tokens_of_whole_prefill(chunk: int):
    tokens = []
    for size in (chunk, 10_000):
        engine = engine_of(FakeRunner(), prefill_chunk=size)
        engine.submit(request("a", "what is this?", images=2, max_tokens=20))
        tokens.append(last_of(run_all(engine), "a").token_ids)
    assert tokens[0] == tokens[1]
    assert len(tokens[0]) > 1


def test_interleaved_chats_give_the_tokens_they_give_alone():
    requests = [
        request(f"r{i}", f"question {i} " * (i + 1), images=i % 3, max_tokens=12, temperature=0.8 * (i % 2), seed=i)
        for i in range(6)
    ]
    alone = {}
    for one in requests:
        engine = engine_of(FakeRunner())
        engine.submit(one)
        alone[one.request_id] = last_of(run_all(engine), one.request_id).token_ids
    runner = FakeRunner()
    engine = engine_of(runner, max_running=4)
    for one in requests:
        engine.submit(one)
    together = run_all(engine)
    assert {name: last_of(together, name).token_ids for name in alone} == alone
    assert max(len(run) for run in runner.forwards) >= 3, "the chats did not overlap, so nothing was tested"


def test_same_seed_same_tokens_and_other_seed_other_tokens():
    answers = []
    for seed in (5, 5, 6):
        engine = engine_of(FakeRunner())
        engine.submit(request("a", temperature=1.0, seed=seed, max_tokens=30))
        answers.append(last_of(run_all(engine), "a").token_ids)
    assert answers[0] == answers[1]
    assert answers[0] != answers[2]


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


def test_chats_wait_for_room_in_the_cache_in_order_of_arrival():
    runner = FakeRunner(kv_cache=FakeCache(40))
    engine = engine_of(runner)
    engine.submit(request("small", "x" * 10, max_tokens=10))
    engine.submit(request("large", "x" * 30, max_tokens=10))
    engine.submit(request("tiny", "x", max_tokens=1))
    engine.step()
    assert (engine.num_running, engine.num_waiting) == (1, 2)
    run_all(engine)
    first_runs = list(dict.fromkeys(name for run in runner.forwards for name, _ in run))
    assert first_runs == ["small", "large", "tiny"]
    assert not runner.kv_cache.out


def test_prefilling_chats_take_turns_and_decoding_ones_never_wait():
    runner = FakeRunner(script={"go": list(range(97, 117))})
    engine = engine_of(runner, prefill_chunk=4)
    engine.submit(request("talks", "go", max_tokens=20))
    engine.step()
    engine.submit(request("long", "x" * 16, max_tokens=1))
    engine.submit(request("short", "y" * 8, max_tokens=1))
    for _ in range(6):
        engine.step()
    expected = ["long", "short", "long", "short", "long", "long"]
    assert runner.forwards[1:] == [[("talks", 1), (name, 4)] for name in expected]


def test_images_are_encoded_one_a_step_while_others_decode():
    runner = FakeRunner(script={"go": list(range(97, 117))})
    engine = engine_of(runner, prefill_chunk=100)
    engine.submit(request("talks", "go", max_tokens=20))
    engine.step()
    engine.submit(request("looks", "x", images=3, max_tokens=1))
    for done in (1, 2, 3):
        assert [event.request_id for event in engine.step()] == ["talks"]
        assert runner.encodes == ["looks"] * done
    engine.step()
    assert runner.forwards[-1] == [("talks", 1), ("looks", 3 * TOKENS_PER_IMAGE + 1)]


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
            assert entry.logprob == pytest.approx(10 - np.log(np.exp(10) + 259), abs=1e-6)
            assert entry.top[0] == (entry.token_id, entry.logprob)
            assert entry.top[1] == (0, pytest.approx(-np.log(np.exp(10) + 259), abs=1e-6))


def test_without_logprobs_deltas_carry_none():
    engine = engine_of(FakeRunner())
    engine.submit(request("a"))
    assert all(event.logprobs is None for event in run_all(engine)["a"] if isinstance(event, Delta))


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


def test_a_bad_image_fails_its_chat_only():
    def fail(prompt, cancel):
        if prompt.request_id == "bad":
            raise BadImage("not a PNG")

    runner = FakeRunner(on_encode=fail)
    engine = engine_of(runner)
    for name in ("good", "bad"):
        engine.submit(request(name, images=1))
    ended = run_all(engine)
    assert isinstance(ended["bad"][-1], Failed)
    assert isinstance(ended["bad"][-1].error, BadImage)
    last_of(ended, "good")
    assert not runner.kv_cache.out


@pytest.mark.parametrize("when", ["prefill", "decode"])
@pytest.mark.parametrize("before_the_others_ran", [True, False])
def test_a_failing_run_ends_the_chat_at_fault_and_no_other(
    when: str, before_the_others_ran: bool, caplog: pytest.LogCaptureFixture
):
    class Faulty(FakeRunner):
        def run(self, step):
            is_prefill = step.lease.length < len(step.prompt.input_ids)
            if step.prompt.request_id == "bad" and is_prefill == (when == "prefill"):
                raise ValueError("boom")
            return super().run(step)

    def answers(names):
        runner = Faulty(script={"short": [*b"some words and more", EOS]})
        engine = engine_of(runner)
        engine.submit(request("talks", "short", max_tokens=20))
        events = [event for _ in range(3) for event in engine.step()]
        for name in names:
            engine.submit(request(name, name * 5, max_tokens=10))
        while engine.has_work:
            events += engine.step()
        return by_request(events), runner

    order = ["bad", "long"] if before_the_others_ran else ["long", "bad"]
    ended, runner = answers(order)
    failed = ended["bad"][-1]
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, InternalError)
    assert "boom" in str(failed.error)
    assert "Traceback" in caplog.text
    expected, _ = answers(["long"])
    assert last_of(ended, "long").token_ids == last_of(expected, "long").token_ids
    assert last_of(ended, "talks").text == "some words and more"
    assert not runner.kv_cache.out


@pytest.mark.parametrize("chunk", [4, 1000])
def test_a_failing_run_repeats_no_image_tokens(chunk: int):
    class Faulty(FakeRunner):
        def forward(self, steps):
            return super().forward(steps[::-1])[::-1]

        def run(self, step):
            if step.prompt.request_id == "bad" and step.lease.length > len(step.prompt.input_ids):
                raise ValueError("boom")
            return super().run(step)

    tokens = []
    for names in (["looks"], ["bad", "looks"]):
        engine = engine_of(Faulty(), prefill_chunk=chunk)
        for name in names:
            engine.submit(request(name, name, images=int(name == "looks"), max_tokens=10))
        ended = run_all(engine)
        tokens.append(last_of(ended, "looks").token_ids)
    assert isinstance(ended["bad"][-1], Failed)
    assert tokens[0] == tokens[1]


def test_nan_logits_end_the_chat_with_a_clear_error():
    class Broken(FakeRunner):
        def logits(self, prompt, log):
            logits = super().logits(prompt, log)
            if prompt.request_id == "bad":
                logits[17] = np.nan
            return logits

    runner = Broken()
    engine = engine_of(runner)
    for name in ("bad", "good"):
        engine.submit(request(name))
    ended = run_all(engine)
    failed = ended["bad"][-1]
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, InternalError)
    assert "logit nan for token 17" in str(failed.error)
    last_of(ended, "good")
    assert not runner.kv_cache.out


def test_a_runner_that_forgets_logits_or_tokens_is_found_out():
    class Forgetful(FakeRunner):
        def run(self, step):
            logits = super().run(step)
            if step.prompt.text == "no tokens":
                step.lease.truncate(0)
            return None if step.prompt.text == "no logits" else logits

    for text, message in (("no tokens", "0 tokens are cached, not 4"), ("no logits", "gave no logits")):
        engine = engine_of(Forgetful())
        engine.submit(request("a", text))
        failed = run_all(engine)["a"][-1]
        assert isinstance(failed, Failed)
        assert message in str(failed.error)


def test_a_cache_that_cannot_lease_fails_the_chat():
    class Broken(FakeCache):
        def lease(self, num_tokens):
            raise MemoryError("no pages")

    engine = engine_of(FakeRunner(kv_cache=Broken(1000)))
    engine.submit(request("a"))
    failed = run_all(engine)["a"][-1]
    assert isinstance(failed, Failed)
    assert "no pages" in str(failed.error)


def test_a_lost_lease_is_an_error_and_not_an_endless_wait(caplog: pytest.LogCaptureFixture):
    runner = FakeRunner(kv_cache=FakeCache(20))
    lost = runner.kv_cache.lease(19)
    engine = engine_of(runner)
    engine.submit(request("a", max_tokens=4))
    with caplog.at_level(logging.ERROR):
        failed = run_all(engine)["a"][-1]
    assert isinstance(failed, Failed)
    assert "a lease was not returned" in str(failed.error)
    assert "idle, but only 1 of 20" in caplog.text
    assert lost is not None


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
