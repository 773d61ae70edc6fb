"""Sessions in files: what is restored goes on as if nothing had happened, and nothing else is ever restored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest

from edge_kernels.library import KernelLibrary
from edge_runtime.engine.dropping import drop
from edge_runtime.engine.engine import Engine
from edge_runtime.engine.events import Delta, Failed, Finished, TokenLogprob
from edge_runtime.engine.request import GenerationRequest, SessionTurn
from edge_runtime.engine.session_files import SessionFiles
from edge_runtime.engine.session_state import SessionLimits
from edge_runtime.errors import SessionBusy, SessionFileError, TooManySessions, UnknownSession
from edge_runtime.model.cancellation import CancelToken
from edge_runtime.model.conversation import ImagePart, Message, TextPart, VideoPart
from tests.engine.tiny_engine import CHUNK, engine_of

T = TypeVar("T")
RNG = np.random.default_rng(3)
SCREENS = [RNG.integers(0, 256, (96, 160, 3), dtype=np.uint8) for _ in range(3)]
Answer = tuple[tuple[int, ...], list[TokenLogprob]]


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


@pytest.mark.parametrize("asks_first", [False, True])
def test_what_was_dropped_approximately_stays_so(fresh: Callable[[], Engine], tmp_path: Path, asks_first: bool) -> None:
    """Where nobody has asked anything since, its rows are still among those of the whole log."""
    engine = fresh()
    session = conversation(engine)
    engine.sessions.change(session, lambda said: drop(said, 1, approximate=True))
    if asks_first:
        ask(engine, session, "well?")
    files_of(engine).save(session, tmp_path / "chat")
    unbroken, finished = ask(engine, session, "and?")
    other = fresh()
    restored = files_of(other).restore(tmp_path / "chat").session_id
    answer, after = ask(other, restored, "and?")
    block_size = other._runner.kv_cache.block_size
    if block_size == CHUNK and not asks_first:  # portable: whole blocks are saved, and here copied to the token
        assert after.timings.cached_tokens == finished.timings.cached_tokens // block_size * block_size
    else:
        assert answer == unbroken
        assert after.timings.cached_tokens == finished.timings.cached_tokens > 0
    assert after.timings.prompt_tokens == finished.timings.prompt_tokens


def test_salts_stay_apart_and_a_strangers_file_is_believed_by_its_session_alone(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    engine = engine_of(tiny_bundle, None)
    session = conversation(engine, "key")
    files_of(engine).save(session, tmp_path / "chat", "key")
    messages = engine.sessions.messages(session, "key")
    with pytest.raises(UnknownSession):
        files_of(engine).save(session, tmp_path / "other")
    for is_ours in (False, True):
        other = engine_of(tiny_bundle, None)
        with pytest.raises(SessionFileError, match="another cache_salt"):
            files_of(other).restore(tmp_path / "chat", is_ours=is_ours)
        restored = files_of(other).restore(tmp_path / "chat", "key", is_ours=is_ours).session_id
        fork = other.sessions.fork(restored, cache_salt="key").session_id
        alike = other.sessions.open(messages, cache_salt="key").session_id
        found = [ask(other, one, "and?", salt="key")[1].timings.cached_tokens for one in (alike, fork, restored)]
        assert (found[0] > 0) is is_ours
        assert found[1] > 0
        assert found[2] >= found[1]
        # What it says later is private, too, and stays so in a file of its own.
        files_of(other).save(restored, tmp_path / "again", "key")
        third = engine_of(tiny_bundle, None)
        again = files_of(third).restore(tmp_path / "again", "key", is_ours=True).session_id
        alike = third.sessions.open(messages, cache_salt="key").session_id
        found = [ask(third, one, "so?", salt="key")[1].timings.cached_tokens for one in (alike, again)]
        assert (found[0] > 0) is is_ours
        assert found[1] > 0


def test_what_fits_is_restored(tiny_bundle_edge: Path, kernel_library: KernelLibrary, tmp_path: Path) -> None:
    engine = engine_of(tiny_bundle_edge, kernel_library, "int8")
    session = conversation(engine)
    files_of(engine).save(session, tmp_path / "chat")
    unbroken, finished = ask(engine, session, "and?")
    other = engine_of(tiny_bundle_edge, kernel_library, "int8", cache_tokens=finished.timings.prompt_tokens + 12)
    talks = GenerationRequest("talks", (Message("user", "hello"),), ignore_eos=True, max_tokens=100)
    other.submit(talks)
    other.step()
    restored = files_of(other).restore(tmp_path / "chat").session_id
    other.cancel("talks")
    while other.has_work:
        other.step()
    answer, after = ask(other, restored, "and?")
    assert answer == unbroken
    assert 0 < after.timings.cached_tokens < finished.timings.cached_tokens


def test_saving_and_restoring_beside_a_chat_that_is_answered(
    fresh: Callable[[], Engine], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Between every two pieces of work the engine steps, and ends and admits other chats."""
    alone, _ = ask(engine := fresh(), conversation(engine), "and?")
    engine = fresh()
    session = conversation(engine)
    numbers = iter(range(1000))

    def beside(work: Callable[[], T]) -> T:
        done = work()
        if not engine.has_work:
            engine.submit(GenerationRequest(f"n{next(numbers)}", (Message("user", "hello"),), max_tokens=3))
        engine.step()
        return done

    SessionFiles(engine.saving, beside).save(session, tmp_path / "chat")
    engine = fresh()
    restored = SessionFiles(engine.saving, beside).restore(tmp_path / "chat").session_id
    while engine.has_work:
        engine.step()
    assert next(numbers) > 3
    answer, finished = ask(engine, restored, "and?")
    assert answer == alone
    assert finished.timings.cached_tokens > 0
    assert "idle" not in caplog.text


def test_a_chat_waits_for_the_room_of_a_session_that_is_being_saved(
    tiny_bundle_edge: Path, kernel_library: KernelLibrary
) -> None:
    engine = engine_of(tiny_bundle_edge, kernel_library, cache_tokens=512)
    session = conversation(engine)
    log = engine.saving.past(engine.sessions.saved(session))
    assert log is not None
    found = engine.saving.find(log)
    assert found is not None
    engine.submit(GenerationRequest("all", (Message("user", "hello"),), ignore_eos=True, max_tokens=450))
    assert engine.step() == []
    assert engine.num_waiting == 1
    engine.saving.give_back(found[0])
    assert not any(isinstance(event, Failed) for _ in range(5) for event in engine.step())
    assert engine.num_running == 1


def test_busy_and_closed_sessions_are_not_saved(tiny_bundle: Path, tmp_path: Path) -> None:
    engine = engine_of(tiny_bundle, None)
    session = engine.sessions.open().session_id
    request = GenerationRequest("r", (Message("user", "hello"),), session=SessionTurn(session))
    engine.prepare(request, CancelToken())
    with pytest.raises(SessionBusy):
        files_of(engine).save(session, tmp_path / "chat")
    engine.sessions.close(session)
    with pytest.raises(UnknownSession):
        files_of(engine).save(session, tmp_path / "chat")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_session_and_one_that_no_template_takes(tiny_bundle: Path, tmp_path: Path) -> None:
    engine = engine_of(tiny_bundle, None)
    for messages in ((), (Message("assistant", "first"), Message("user", TextPart("<|image_pad|>")))):
        session = engine.sessions.open(messages).session_id
        files_of(engine).save(session, tmp_path / "chat")
        restored = files_of(engine).restore(tmp_path / "chat").session_id
        assert engine.sessions.messages(restored) == tuple(messages)


def test_only_sessions_of_the_same_model_are_restored(
    tiny_bundle: Path,
    tiny_bundle_int4: Path,
    tiny_bundle_edge: Path,
    kernel_library: KernelLibrary,
    tmp_path: Path,
) -> None:
    portable, edge = tmp_path / "portable", tmp_path / "edge"
    engine = engine_of(tiny_bundle, None)
    files_of(engine).save(conversation(engine), portable)
    engine = engine_of(tiny_bundle_edge, kernel_library, "int8")
    files_of(engine).save(conversation(engine), edge)
    for path, other, what in (
        (portable, engine_of(tiny_bundle_int4, None), "model|bundle"),
        (portable, engine_of(tiny_bundle_edge, kernel_library), "model|flavour portable"),
        (edge, engine_of(tiny_bundle_edge, kernel_library, "fp16"), "KV dtype int8"),
        (edge, engine_of(tiny_bundle, None), "model|flavour edge"),
    ):
        with pytest.raises(SessionFileError, match=f"saved with another model: .*({what})"):
            files_of(other).restore(path)
        assert other.sessions.num_sessions == 0


def test_what_another_release_computed_is_computed_anew(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(tiny_bundle, None)
    session = conversation(engine)
    with monkeypatch.context() as patch:
        patch.setattr("edge_runtime.engine.session_files.__version__", "0.0.1")
        files_of(engine).save(session, tmp_path / "chat")
    other = engine_of(tiny_bundle, None)
    _, finished = ask(other, files_of(other).restore(tmp_path / "chat").session_id, "and?")
    assert finished.timings.cached_tokens == 0
    assert finished.timings.prompt_tokens == ask(engine, session, "and?")[1].timings.prompt_tokens


def test_a_session_that_holds_too_much_is_not_restored(tiny_bundle: Path, tmp_path: Path) -> None:
    engine = engine_of(tiny_bundle, None)
    files_of(engine).save(conversation(engine), tmp_path / "chat")
    other = engine_of(tiny_bundle, None)
    other.sessions.limits = SessionLimits(max_bytes=SCREENS[0].nbytes)
    with pytest.raises(TooManySessions):
        files_of(other).restore(tmp_path / "chat")
    other.sessions.limits = SessionLimits(max_sessions=0)
    with pytest.raises(TooManySessions):
        files_of(other).restore(tmp_path / "chat")
    cache = other._runner.kv_cache
    assert (cache.kept_tokens, cache.free_tokens) == (0, cache.max_tokens)
