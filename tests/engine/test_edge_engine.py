"""The engine on an edge bundle: chats in flight together get the answers they get alone, and leave nothing behind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from edge_kernels.library import KernelError, KernelLibrary
from edge_runtime.devices.memory import MemoryRequest
from edge_runtime.devices.select import ResolvedProfile
from edge_runtime.engine.engine import Engine
from edge_runtime.engine.events import Failed, Finished
from edge_runtime.engine.load import load_engine, plan_bundle
from edge_runtime.engine.request import GenerationRequest
from edge_runtime.errors import BundleError, Cancelled
from edge_runtime.model.conversation import ImagePart, Message, TextPart

SCENE = np.random.default_rng(3).integers(0, 256, (64, 96, 3), dtype=np.uint8)
PROFILE = ResolvedProfile(
    name="test",
    threads=2,
    budget_bytes=2**31,
    context_tokens=512,
    max_pixels=100_000,
    max_chats=3,
    prefill_chunk_tokens=16,
    kv_dtypes=("int8", "fp16"),
    execution_providers=("cpu",),
)


@pytest.fixture(scope="module")
def engine(tiny_bundle_edge: Path, kernel_library: KernelLibrary) -> Engine:
    bundle, plan = plan_bundle(tiny_bundle_edge, PROFILE, MemoryRequest())
    assert (plan.kv_dtype, plan.max_chats) == ("int8", 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edge_runtime.engine.load.KernelLibrary", lambda: kernel_library)
        return load_engine(bundle, PROFILE, plan)


def ask(name: str, *parts: str | ImagePart, max_tokens: int = 12) -> GenerationRequest:
    content = tuple(TextPart(part) if isinstance(part, str) else part for part in parts)
    return GenerationRequest(name, (Message("user", content),), max_tokens=max_tokens)


REQUESTS = (
    ask("image", "look:", ImagePart(SCENE), "what is it?"),
    ask("short", "hi", max_tokens=30),
    ask("long", "so many words " * 20),
)


def answers(engine: Engine, requests: Sequence[GenerationRequest]) -> dict[str, tuple[int, ...]]:
    """Token ids of all answers, the requests in flight together."""
    for request in requests:
        engine.submit(request)
    found = {}
    while engine.has_work:
        for event in engine.step():
            assert not isinstance(event, Failed), event
            if isinstance(event, Finished):
                found[event.request_id] = event.token_ids
    return found


def test_chats_together_are_answered_as_alone(engine: Engine) -> None:
    alone: dict[str, tuple[int, ...]] = {}
    for request in REQUESTS:
        alone |= answers(engine, [request])
    assert answers(engine, REQUESTS) == alone
    assert answers(engine, REQUESTS[::-1]) == alone


def test_chat_cancelled_beside_others_ends_alone(engine: Engine) -> None:
    expected = answers(engine, [REQUESTS[1]])
    engine.submit(ask("victim", "so many words " * 20))
    engine.submit(REQUESTS[1])
    for _ in range(4):
        engine.step()
    engine.cancel("victim")
    ended: dict[str, Finished | Failed] = {}
    while engine.has_work:
        ended |= {event.request_id: event for event in engine.step() if isinstance(event, (Finished, Failed))}
    victim, other = ended["victim"], ended["short"]
    assert isinstance(victim, Failed)
    assert isinstance(victim.error, Cancelled)
    assert isinstance(other, Finished)
    assert other.token_ids == expected["short"]


def test_without_kernels_the_error_says_what_to_do(tiny_bundle_edge: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> KernelLibrary:
        raise KernelError("no library; install a compiler")

    monkeypatch.setattr("edge_runtime.engine.load.KernelLibrary", missing)
    bundle, plan = plan_bundle(tiny_bundle_edge, PROFILE, MemoryRequest())
    with pytest.raises(BundleError, match=r"install a compiler.*--flavour portable"):
        load_engine(bundle, PROFILE, plan)
