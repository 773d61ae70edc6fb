"""From a bundle folder to an engine, with a plan that is kept."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from edge_runtime.devices.memory import MemoryRequest
from edge_runtime.devices.probe import probe_machine
from edge_runtime.devices.select import ResolvedProfile, select_profile
from edge_runtime.engine.events import Finished
from edge_runtime.engine.load import load_engine, plan_bundle
from edge_runtime.engine.request import GenerationRequest
from edge_runtime.errors import BadParameter, BundleError, ContextOverflow, DoesNotFit
from edge_runtime.model.conversation import Message, TextPart
from edge_runtime.model.session import choose_execution_provider

PLAN = MemoryRequest(context_tokens=96, max_chats=2)


@pytest.fixture(scope="module")
def profile() -> ResolvedProfile:
    return select_profile("cpu-generic", probe_machine())


def request(number: int, max_tokens: int = 8) -> GenerationRequest:
    return GenerationRequest(str(number), (Message("user", (TextPart("hello"),)),), max_tokens=max_tokens)


def test_a_provider_that_is_passed_over_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert choose_execution_provider(["cuda", "cpu"]) == "cpu"
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "'cuda' is passed over" in caplog.text


def test_the_engine_keeps_to_the_plan(tiny_bundle: Path, profile: ResolvedProfile) -> None:
    bundle, plan = plan_bundle(tiny_bundle, profile, PLAN)
    assert (plan.context_tokens, plan.max_chats) == (96, 2)
    engine = load_engine(bundle, profile, plan)
    with pytest.raises(ContextOverflow):
        engine.submit(request(0, max_tokens=96))
    for number in range(3):
        engine.submit(request(number))
    ended = []
    most_running = 0
    while engine.has_work:
        ended += [event for event in engine.step() if not hasattr(event, "channel")]
        most_running = max(most_running, engine.num_running)
    assert most_running == 2
    assert {event.request_id for event in ended if isinstance(event, Finished)} == {"0", "1", "2"}
    assert len({event.token_ids for event in ended if isinstance(event, Finished)}) == 1  # greedy, the same question


def test_what_cannot_be_is_said_before_anything_is_loaded(tiny_bundle: Path, profile: ResolvedProfile) -> None:
    with pytest.raises(DoesNotFit, match="more memory"):
        plan_bundle(tiny_bundle, profile, MemoryRequest(budget_bytes=1000))
    with pytest.raises(BadParameter, match="context"):
        plan_bundle(tiny_bundle, profile, MemoryRequest(context_tokens=10**9))
    with pytest.raises(BundleError, match="not a bundle"):
        plan_bundle(tiny_bundle.parent, profile, PLAN)
