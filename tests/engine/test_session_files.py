"""Sessions in files: what is restored goes on as if nothing had happened, and nothing else is ever restored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edge_kernels.library import KernelLibrary
from edge_runtime.devices.profile import KVDtype
from edge_runtime.engine.bundle_runner import BundleRunner, RunnerSettings
from edge_runtime.engine.engine import Engine
from edge_runtime.engine.events import Delta, Failed, Finished, TokenLogprob
from edge_runtime.engine.request import GenerationRequest, SessionTurn
from edge_runtime.engine.session_files import SessionFiles
from edge_runtime.engine.settings import EngineSettings
from edge_runtime.model.bundle import open_bundle
from edge_runtime.model.conversation import ImagePart, Message, VideoPart
from edge_runtime.model.graph import GraphSettings
from edge_runtime.vision.image import ImageLimits

CHUNK = 32
RNG = np.random.default_rng(3)
SCREENS = [RNG.integers(0, 256, (96, 160, 3), dtype=np.uint8) for _ in range(3)]
Answer = tuple[tuple[int, ...], list[TokenLogprob]]


def engine_of(
    bundle: Path, kernels: KernelLibrary | None, kv_dtype: KVDtype = "fp32", cache_tokens: int = 4096
) -> Engine:
    settings = RunnerSettings(
        2048,
        cache_tokens,
        None,
        GraphSettings(2, kernels=kernels),
        ImageLimits(),
        kv_dtype,
        prefill_chunk=CHUNK,
        feature_cache_bytes=1 << 20,
    )
    return Engine(BundleRunner(open_bundle(bundle), settings), EngineSettings(CHUNK, None))


def ask(engine: Engine, session: str, *parts: object, salt: str = "") -> tuple[Answer, Finished]:
    request = GenerationRequest(
        "r",
        (Message("user", list(parts)),),  # type: ignore[arg-type]
        session=SessionTurn(session),
        max_tokens=12,
        num_logprobs=2,
        cache_salt=salt,
    )
    logprobs: list[TokenLogprob] = []
    for event in engine.generate(request):
        assert not isinstance(event, Failed), event
        if isinstance(event, Delta):
            logprobs += event.logprobs or ()
        else:
            return (event.token_ids, logprobs), event
    raise AssertionError


def conversation(engine: Engine, salt: str = "") -> str:
    """Two turns with images, one a file's bytes, and a video."""
    session = engine.sessions.open([Message("system", "you are an agent " * 3)], cache_salt=salt).session_id
    ask(engine, session, ImagePart(SCREENS[0]), "what now?", salt=salt)
    ask(engine, session, VideoPart((SCREENS[1], SCREENS[0]), (0.0, 0.5)), "and now? " * 9, salt=salt)
    return session


def files_of(engine: Engine) -> SessionFiles:
    return SessionFiles(engine.saving)


@pytest.fixture(params=["portable", "edge fp32", "edge fp16", "edge int8"])
def fresh(request: pytest.FixtureRequest, tiny_bundle: Path) -> Callable[[], Engine]:
    """Makes engines that know nothing, of one kind."""
    flavour, _, kv_dtype = request.param.partition(" ")
    if flavour == "portable":
        return lambda: engine_of(tiny_bundle, None)
    edge, kernels = request.getfixturevalue("tiny_bundle_edge"), request.getfixturevalue("kernel_library")
    return lambda: engine_of(edge, kernels, kv_dtype)


def test_a_restored_session_goes_on_as_an_unbroken_one(fresh: Callable[[], Engine], tmp_path: Path) -> None:
    engine = fresh()
    session = conversation(engine)
    saved = files_of(engine).save(session, tmp_path / "chat")
    assert saved.session_id == session
    assert [path.name for path in tmp_path.iterdir()] == ["chat"]
    assert (tmp_path / "chat").stat().st_mode & 0o777 == 0o600
    question = (ImagePart(SCREENS[2]), "and in the end?")
    unbroken, finished = ask(engine, session, *question)
    assert finished.timings.cached_tokens > 0

    other = fresh()
    restored = files_of(other).restore(tmp_path / "chat")
    assert restored.session_id != session
    assert (restored.num_messages, restored.num_bytes) == (saved.num_messages, saved.num_bytes)
    answer, after = ask(other, restored.session_id, *question)
    assert answer == unbroken
    assert after.timings.cached_tokens == finished.timings.cached_tokens
    assert other._runner.kv_cache.free_tokens == other._runner.kv_cache.max_tokens
    again, _ = ask(other, files_of(other).restore(tmp_path / "chat").session_id, *question)
    assert again == unbroken
