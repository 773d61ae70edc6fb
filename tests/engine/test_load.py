"""From a bundle folder to an engine, with a plan that is kept."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from edge_kernels.library import KernelError, KernelLibrary
from edge_runtime.devices.memory import MemoryRequest
from edge_runtime.devices.probe import probe_machine
from edge_runtime.devices.select import ResolvedProfile, select_profile
from edge_runtime.engine import load
from edge_runtime.engine.events import Finished
from edge_runtime.engine.load import PlannedBundle, load_engine, plan_bundle
from edge_runtime.engine.request import GenerationRequest
from edge_runtime.errors import BadParameter, BundleError, ContextOverflow, DoesNotFit
from edge_runtime.model.conversation import ImagePart, Message, TextPart
from edge_runtime.model.graph import choose_execution_provider

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


def ask_about_a_picture(bundle: Path, profile: ResolvedProfile) -> tuple[int, ...]:
    opened, plan = plan_bundle(bundle, profile, MemoryRequest(context_tokens=1024, max_chats=1))
    picture = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    question = Message("user", (ImagePart(picture), TextPart("what is it?")))
    *_, end = load_engine(opened, profile, plan).generate(GenerationRequest("r", (question,), max_tokens=8))
    assert isinstance(end, Finished)
    return end.token_ids


def missing() -> NoReturn:
    raise KernelError("no library")


def test_pictures_are_cut_by_the_kernel_library_where_there_is_one(
    tiny_bundle: Path, kernel_library: KernelLibrary, profile: ResolvedProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def patchify(*arguments: Any) -> Any:
        calls.append(arguments)
        return cut(*arguments)

    cut = kernel_library.patchify
    monkeypatch.setattr(kernel_library, "patchify", patchify)
    monkeypatch.setattr(load, "KernelLibrary", lambda: kernel_library)
    with_library = ask_about_a_picture(tiny_bundle, profile)
    assert len(calls) == 1
    monkeypatch.setattr(load, "KernelLibrary", missing)
    assert ask_about_a_picture(tiny_bundle, profile) == with_library
    assert len(calls) == 1


def test_an_edge_bundle_without_kernels_says_what_to_do(
    tiny_bundle_edge: Path, profile: ResolvedProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "KernelLibrary", missing)
    with pytest.raises(BundleError, match="needs our kernels: no library; or export the model again"):
        ask_about_a_picture(tiny_bundle_edge, profile)


def test_what_cannot_be_is_said_before_anything_is_loaded(tiny_bundle: Path, profile: ResolvedProfile) -> None:
    with pytest.raises(DoesNotFit, match="more memory"):
        plan_bundle(tiny_bundle, profile, MemoryRequest(budget_bytes=1000))
    with pytest.raises(BadParameter, match="context"):
        plan_bundle(tiny_bundle, profile, MemoryRequest(context_tokens=10**9))
    with pytest.raises(BundleError, match="not a bundle"):
        plan_bundle(tiny_bundle.parent, profile, PLAN)


def test_a_bundle_is_opened_by_its_folder_in_either_form(tiny_bundle: Path) -> None:
    planned = PlannedBundle.open(tiny_bundle, "cpu-generic", PLAN)
    assert (planned.bundle.path, planned.plan.context_tokens) == (tiny_bundle, 96)
    assert PlannedBundle.open(str(tiny_bundle), memory=PLAN).bundle.path == tiny_bundle
    *_, end = load.load(str(tiny_bundle), memory=PLAN).generate(request(0))
    assert isinstance(end, Finished)


def test_pocket_is_known_by_name_and_a_path_is_a_folder(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_runtime.engine.pocket.checkpoint", lambda: tiny_bundle)
    monkeypatch.setattr("edge_runtime.engine.pocket.pocket_bundle", lambda source, cache: source)
    assert PlannedBundle.open("pocket").bundle.path == tiny_bundle
    with pytest.raises(BundleError):
        PlannedBundle.open(Path("pocket"))


def test_memory_is_a_memory_request(tiny_bundle: Path) -> None:
    with pytest.raises(BadParameter, match=r"memory is of type dict; wanted MemoryRequest\(context_tokens=\.\.\.\)"):
        load.load(tiny_bundle, memory={"context_tokens": 96})  # type: ignore[arg-type]
