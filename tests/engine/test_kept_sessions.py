"""Sessions that a server keeps while it does not run, and the calls from other threads that this takes."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from edge_kernels.library import KernelLibrary
from edge_runtime.engine.engine import Engine
from edge_runtime.engine.kept_sessions import KeptSessions
from edge_runtime.engine.request import GenerationRequest, SessionTurn
from edge_runtime.engine.session import Sessions
from edge_runtime.engine.session_files import SessionFiles
from edge_runtime.engine.session_state import SessionLimits
from edge_runtime.engine.thread import EngineThread
from edge_runtime.errors import BadPrompt, ShuttingDown, TimedOut, UnknownSession
from edge_runtime.model.cancellation import CancelToken
from edge_runtime.model.conversation import Message
from tests.engine.fake_runner import FakeRunner, engine_of
from tests.engine.test_session_files import ask, files_of
from tests.engine.tiny_engine import engine_of as engine_of_bundle

NEVER = lambda: False  # noqa: E731
LATER_S = time.monotonic() + 3600


def kept_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {".lock"}


def test_what_is_too_old_goes_and_what_cannot_be_read_stays(
    tiny_bundle: Path, tiny_bundle_int4: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    engine = engine_of_bundle(tiny_bundle, None)
    names = [engine.sessions.open([Message("user", f"{number}")]).session_id for number in range(3)]
    busy = engine.sessions.open().session_id
    asked = GenerationRequest("r", (Message("user", "?"),), session=SessionTurn(busy))
    engine.sessions.begin(asked, CancelToken())
    engine.sessions._sessions[names[0]].used_s -= 1000  # nobody has used it for so long
    kept = KeptSessions(tmp_path)
    kept.save(files_of(engine), LATER_S, NEVER)
    assert kept_in(tmp_path) == {f"{name}.kept" for name in names}
    (tmp_path / "damaged.kept").write_bytes(b"EDGESESS")
    (tmp_path / "note.kept").write_text("no session")

    other_model = engine_of_bundle(tiny_bundle_int4, None)
    before = kept_in(tmp_path)
    kept.bring_back(files_of(other_model))
    assert kept_in(tmp_path) == before
    assert other_model.sessions.num_sessions == 0
    assert "another model" in caplog.text

    again = engine_of_bundle(tiny_bundle, None)
    again.sessions.limits = SessionLimits(timeout_s=900)
    kept.bring_back(files_of(again))
    assert kept_in(tmp_path) == {"damaged.kept", "note.kept"}
    assert [again.sessions.messages(name)[0].content for name in names[1:]] == [
        engine.sessions.messages(name)[0].content for name in names[1:]
    ]
    with pytest.raises(UnknownSession):
        again.sessions.state(names[0])
    assert "it is forgotten" in caplog.text
    kept.bring_back(files_of(again))
    assert again.sessions.num_sessions == 2
    kept.close()


def test_time_that_passes_counts_over_a_restart(tiny_bundle: Path, tmp_path: Path) -> None:
    engine = engine_of_bundle(tiny_bundle, None)
    name = engine.sessions.open().session_id
    engine.sessions._sessions[name].used_s -= 600
    kept = KeptSessions(tmp_path)
    kept.save(files_of(engine), LATER_S, NEVER)
    now = [time.monotonic()]
    again = engine_of_bundle(tiny_bundle, None)
    again.saving.sessions = again.sessions = Sessions(SessionLimits(timeout_s=900), lambda: now[0])
    kept.bring_back(files_of(again))
    now[0] += 200
    assert again.sessions.idle() == [(name, "")]
    now[0] += 200  # 600 before, 400 after
    assert again.sessions.idle() == []
    kept.close()


def test_the_last_used_come_first_when_time_or_room_is_short(
    tiny_bundle_edge: Path, kernel_library: KernelLibrary, tmp_path: Path
) -> None:
    engine = engine_of_bundle(tiny_bundle_edge, kernel_library)
    names = []
    for number in range(3):
        names.append(engine.sessions.open([Message("system", f"brief {number} " * 20)]).session_id)
        ask(engine, names[-1], "hello")
    turns = iter((False, False, True))
    kept = KeptSessions(tmp_path)
    kept.save(files_of(engine), LATER_S, lambda: next(turns))
    assert kept_in(tmp_path) == {f"{name}.kept" for name in names[1:]}
    kept.save(files_of(engine), time.monotonic() - 1, NEVER)
    ask(engine, names[2], "and?")
    kept.save(files_of(engine), LATER_S, NEVER)
    _, finished = ask(engine, names[2], "so?")
    again = engine_of_bundle(tiny_bundle_edge, kernel_library, cache_tokens=finished.timings.prompt_tokens + 12)
    kept.bring_back(files_of(again))
    assert again.sessions.num_sessions == 3
    whole_blocks = finished.timings.cached_tokens // 64 * 64  # there is no room to copy the part behind them
    assert ask(again, names[2], "so?")[1].timings.cached_tokens == whole_blocks > 64
    kept.close()


def test_work_from_another_thread_is_done_between_steps() -> None:
    engine = engine_of(FakeRunner())
    thread = EngineThread(engine, lambda: None)
    thread.start()
    assert thread.call(lambda: threading.current_thread().name) == "engine"

    def fail() -> None:
        raise BadPrompt("so it is")

    with pytest.raises(BadPrompt, match="so it is"):
        thread.call(fail)
    with pytest.raises(TimeoutError):  # one of its own is no sign that it is not done
        thread.call(_time_out)
    held, goes_on = threading.Event(), threading.Event()

    def hold() -> None:
        with suppress(TimedOut):
            thread.call(lambda: (held.set(), goes_on.wait()))

    holder = threading.Thread(target=hold, daemon=True)
    holder.start()
    held.wait()
    thread.max_call_s = 0.1
    with pytest.raises(TimedOut, match="did not end its step"):
        thread.call(lambda: None)
    goes_on.set()
    holder.join()
    assert thread.stop(10)
    with pytest.raises(ShuttingDown):
        thread.call(lambda: None)
    assert isinstance(engine, Engine)
    assert isinstance(SessionFiles(engine.saving, thread.call), SessionFiles)


def _time_out() -> None:
    raise TimeoutError
