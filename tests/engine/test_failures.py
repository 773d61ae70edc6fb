"""An error ends the chat at fault with a clear message, and no other."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from edge_runtime.engine.events import Failed
from edge_runtime.errors import (
    BadImage,
    InternalError,
)
from tests.engine.fake_runner import (
    EOS,
    FakeCache,
    FakeRunner,
    by_request,
    engine_of,
    last_of,
    request,
    run_all,
)


def test_a_bad_image_fails_its_chat_only():
    def fail(log, cancel):
        if log.request_id == "bad":
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
            is_prefill = step.lease.length < len(step.log.input_ids)
            if step.log.request_id == "bad" and is_prefill == (when == "prefill"):
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
def test_a_failing_run_loses_no_image_features(chunk: int):
    class Faulty(FakeRunner):
        def forward(self, steps):
            return super().forward(steps[::-1])[::-1]

        def run(self, step):
            if step.log.request_id == "bad" and step.lease.length > len(step.log.input_ids):
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


def test_images_that_cannot_be_released_cost_nobody_else_anything(caplog: pytest.LogCaptureFixture):
    class Broken(FakeRunner):
        def release(self, log):
            super().release(log)
            if log.request_id == "bad":
                raise MemoryError("no room to let go")

    runner = Broken()
    engine = engine_of(runner)
    for name in ("bad", "good"):
        engine.submit(request(name, images=1))
    ended = run_all(engine)
    last_of(ended, "bad")
    last_of(ended, "good")
    assert "could not be released" in caplog.text
    assert not runner.kv_cache.out


def test_a_chat_whose_blocks_cannot_be_shared_ends_alone():
    class Broken(FakeCache):
        def enter(self, key, block):
            if len(self._key_of) == 3:
                raise MemoryError("no room for a key")
            super().enter(key, block)

    runner = FakeRunner(kv_cache=Broken(200, 4, reuses=True))
    engine = engine_of(runner)
    for name in ("a", "b", "c"):
        engine.submit(request(name, name * 9, max_tokens=6))
    ended = run_all(engine)
    failed = [name for name, events in ended.items() if isinstance(events[-1], Failed)]
    assert failed
    assert all("no room for a key" in str(ended[name][-1].error) for name in failed)
    assert len(ended) == 3
    assert runner.kv_cache.free_tokens == 200


def test_nan_logits_end_the_chat_with_a_clear_error():
    class Broken(FakeRunner):
        def logits(self, log, tokens):
            logits = super().logits(log, tokens)
            if log.request_id == "bad":
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
            if step.log.text == "no tokens":
                step.lease.truncate(0)
            return None if step.log.text == "no logits" else logits

    for text, message in (("no tokens", "0 tokens are cached, not 4"), ("no logits", "gave no logits")):
        engine = engine_of(Forgetful())
        engine.submit(request("a", text))
        failed = run_all(engine)["a"][-1]
        assert isinstance(failed, Failed)
        assert message in str(failed.error)


def test_a_cache_that_cannot_lease_fails_the_chat():
    class Broken(FakeCache):
        def lease(self, num_tokens, keys=(), sources=()):
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
