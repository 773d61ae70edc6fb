"""Cancelling at every moment of a chat's life, and random lives of many: each ends exactly once, nothing leaks."""

from __future__ import annotations

import random
import threading

import pytest

from edge_runtime.engine.engine import Engine
from edge_runtime.engine.events import Failed, Finished
from edge_runtime.engine.settings import EngineSettings
from edge_runtime.errors import BadImage, Cancelled, EdgeError, InternalError
from tests.engine.fake_runner import FakeCache, FakeRunner, by_request, last_of, request, run_all


def assert_cancelled(events, runner: FakeRunner) -> None:
    assert isinstance(events[-1], Failed)
    assert isinstance(events[-1].error, Cancelled)
    assert not runner.kv_cache.out


def test_a_waiting_chat_is_cancelled_without_any_work():
    runner = FakeRunner()
    engine = Engine(runner, EngineSettings())
    engine.submit(request("a", images=1))
    engine.cancel("a")
    assert_cancelled(run_all(engine)["a"], runner)
    assert (runner.forwards, runner.encodes, runner.kv_cache.num_leases) == ([], [], 0)


def test_a_cancel_between_chunks_leaves_the_next_chunk_undone():
    runner = FakeRunner()
    engine = Engine(runner, EngineSettings(prefill_chunk=4))
    engine.submit(request("a", "x" * 20))
    engine.step()
    engine.cancel("a")
    assert_cancelled(engine.step(), runner)
    assert runner.forwards == [[("a", 4)]]


@pytest.mark.parametrize("num_runs", [1, 2, 3, 6])
def test_a_cancel_inside_a_run_ends_the_chat_in_the_same_step(num_runs: int):
    """Runs 1 to 3 prefill, the others decode."""

    def cancel_inside(steps):
        if len(runner.forwards) == num_runs:
            engine.cancel("a")

    runner = FakeRunner(on_forward=cancel_inside)
    engine = Engine(runner, EngineSettings(prefill_chunk=4))
    engine.submit(request("a", "x" * 12, max_tokens=20))
    events = []
    for _ in range(num_runs):
        events = engine.step()
    assert_cancelled(events, runner)
    assert len(runner.forwards) == num_runs
    assert not engine.has_work


def test_a_cancel_from_another_thread_stops_a_vision_run():
    inside, stopped = threading.Event(), threading.Event()

    def encode_until_stopped(prompt, cancel):
        with cancel.attach(stopped.set):
            inside.set()
            assert stopped.wait(60), "the cancel did not reach the run"

    runner = FakeRunner(on_encode=encode_until_stopped)
    engine = Engine(runner, EngineSettings())
    engine.submit(request("a", images=2))

    def canceller():
        inside.wait(60)
        engine.cancel("a")

    thread = threading.Thread(target=canceller)
    thread.start()
    events = engine.step()
    thread.join()
    assert_cancelled(events, runner)
    assert runner.encodes == []


def test_a_cancel_in_a_shared_run_leaves_the_other_chats_as_they_were():
    def cancel_inside(steps):
        if len(runner.forwards) == 4:
            engine.cancel("b")

    tokens = []
    for names in ("a", "ab"):
        runner = FakeRunner(on_forward=cancel_inside)
        engine = Engine(runner, EngineSettings())
        for name in names:
            engine.submit(request(name, name * 9, max_tokens=12))
        tokens.append(last_of(run_all(engine), "a").token_ids)
    assert tokens[0] == tokens[1]


def test_a_cancel_of_an_unknown_or_ended_request_is_ignored():
    engine = Engine(FakeRunner(), EngineSettings())
    engine.cancel("nobody")
    engine.submit(request("a"))
    last_of(run_all(engine), "a")
    engine.cancel("a")
    assert engine.step() == []


@pytest.mark.parametrize("seed", range(25))
def test_random_lives_end_exactly_once_and_leave_nothing(seed: int):
    rng = random.Random(seed)

    def trouble(probability: float, make_error):
        if rng.random() < 0.1 and submitted:
            engine.cancel(rng.choice(submitted))
        if rng.random() < probability:
            raise make_error()

    runner = FakeRunner(
        max_context=90,
        kv_cache=FakeCache(120),
        on_forward=lambda steps: trouble(0.03, lambda: ValueError("boom")),
        on_encode=lambda prompt, cancel: trouble(0.1, lambda: BadImage("no pixels")),
        on_prepare=lambda one: trouble(0.05, lambda: OSError("no file")),
    )
    engine = Engine(runner, EngineSettings(prefill_chunk=5, max_running=3, max_waiting=4))
    submitted: list[str] = []
    refused = 0
    events = []
    for number in range(150):
        choice = rng.random()
        if choice < 0.35:
            one = request(
                f"r{number}",
                "x" * rng.randint(1, 60),
                images=rng.choice([0, 0, 1, 3]),
                max_tokens=rng.randint(1, 40),
                temperature=rng.choice([0.0, 1.0]),
                stop=rng.choice([(), ("a", "bc")]),
            )
            try:
                engine.submit(one)
                submitted.append(one.request_id)
            except EdgeError:
                refused += 1
        elif choice < 0.45 and submitted:
            engine.cancel(rng.choice(submitted))
        else:
            events += engine.step()
        assert engine.num_running <= 3
        assert engine.num_running + engine.num_waiting <= 7
        assert len(runner.kv_cache.out) == engine.num_running
        assert runner.kv_cache.free_tokens >= 0
    while engine.has_work:
        events += engine.step()
    ended = by_request(events)
    assert set(ended) == set(submitted)
    assert sum(isinstance(event, (Finished, Failed)) for event in events) == len(submitted)
    assert not any(
        isinstance(e, Failed) and type(e.error) is InternalError and "AssertionError" in str(e) for e in events
    )
    assert not runner.kv_cache.out
    assert refused
    assert (engine.num_running, engine.num_waiting) == (0, 0)
