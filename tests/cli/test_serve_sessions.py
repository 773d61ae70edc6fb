"""Sessions of a real server in files: by clients, and over a restart."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_runtime.errors import SessionFileError, UnknownSession
from edge_runtime.serving.async_client import AsyncClient
from edge_runtime.serving.client import Client
from tests.cli.test_serve import COMMAND, Served, served  # noqa: F401 - a fixture

Serve = Callable[..., Served]
PIXELS = np.random.default_rng(1).integers(0, 256, (96, 160, 3), dtype=np.uint8)
PICTURE = cv2.imencode(".png", PIXELS)[1].tobytes()


def test_a_session_moves_from_one_server_to_another(
    served: Serve,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = served(f"ipc://{tmp_path}/first")
    monkeypatch.chdir(tmp_path)
    with Client(first.address) as client, client.session(system="brief " * 30) as session:
        session.ask("what is this?", images=[PIXELS, PICTURE], max_tokens=8)
        session.save("chat")
        answer = session.ask("and now? " * 10, max_tokens=8)
        assert answer.timings.cached_tokens > 0
    assert first.end(signal.SIGTERM) == 0
    second = served(f"ipc://{tmp_path}/second")
    with Client(second.address) as client:
        restored = client.restore(tmp_path / "chat")
        again = restored.ask("and now? " * 10, max_tokens=8)
        assert again.token_ids == answer.token_ids
        assert again.timings.cached_tokens > 0
        with pytest.raises(SessionFileError, match="not a saved session"):
            client.restore(__file__)
        with pytest.raises(SessionFileError, match="not a saved session"):
            restored.save(__file__)

    async def with_asyncio() -> None:
        async with AsyncClient(second.address) as client, await client.restore("chat") as session:
            assert (await session.ask("and now? " * 10, max_tokens=8)).token_ids == answer.token_ids
            await asyncio.gather(session.save("chat"), session.ask("?", max_tokens=2))  # saved as it is when that comes
            assert (await (await client.restore("chat")).state()).num_turns == 2

    asyncio.run(with_asyncio())


def test_sessions_are_kept_over_a_restart(served: Serve, tmp_path: Path) -> None:  # noqa: F811
    folder = tmp_path / "kept"
    keep = ("tcp://127.0.0.1:*", "--keep-sessions", str(folder))
    first = served(*keep)
    with Client(first.address) as client:
        session = client.session(system="brief " * 30, cache_salt="key")
        session.ask("what is this?", images=PIXELS, max_tokens=8)
        other = client.session(messages="hello")
        closed = client.session()
        closed.close()
        other.save(folder / "mine")
        with pytest.raises(SessionFileError, match="only as files in"):
            other.save(tmp_path / "elsewhere")
        with pytest.raises(SessionFileError, match="the server's own"):
            client.restore(folder / f"{other.session_id}.kept")
        fork = session.fork()
        expected = fork.ask("and now? " * 10, max_tokens=8)
        assert first.end(signal.SIGTERM) == 0
    assert folder.stat().st_mode & 0o777 == 0o700
    kept = {path.name for path in folder.iterdir()} - {".lock"}
    assert kept == {"mine"} | {f"{one.session_id}.kept" for one in (session, other, fork)}
    (folder / "bad.kept").write_bytes((folder / f"{other.session_id}.kept").read_bytes()[:-1])
    (folder / f".{other.session_id}.kept.saving").write_bytes((folder / "mine").read_bytes())

    second = served(*keep)
    with Client(second.address) as client:
        back = client.session(session.session_id, cache_salt="key")
        answer = back.ask("and now? " * 10, max_tokens=8)
        assert answer.token_ids == expected.token_ids
        assert answer.timings.cached_tokens > 0
        assert client.session(other.session_id).state().num_messages == 1
        for gone in (closed, session):  # and not without its salt
            with pytest.raises(UnknownSession):
                client.session(gone.session_id)
        assert {path.name for path in folder.iterdir()} - {".lock"} == {"mine", "bad.kept"}
        mine = client.restore(folder / "mine")
        assert mine.session_id != other.session_id
        mine.close()
        back.close()
    assert second.end(signal.SIGTERM) == 0
    left = {path.name for path in folder.iterdir()} - {".lock"}
    assert left == {"mine", "bad.kept"} | {f"{one.session_id}.kept" for one in (other, fork)}


def test_a_folder_that_others_may_write_to_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    command = [*COMMAND, "serve", str(tiny_bundle), "--bind", "tcp://127.0.0.1:*", "--keep-sessions", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "make it yours alone" in done.stderr


def test_others_are_answered_while_a_session_is_saved(served: Serve, tmp_path: Path) -> None:  # noqa: F811
    server = served(f"ipc://{tmp_path}/s")
    with Client(server.address) as client:
        session = client.session()
        session.ask("what is this? " * 50, images=PIXELS, max_tokens=4)
        stream = client.generate("hello", max_tokens=400, ignore_eos=True)
        next(stream)
        saving = threading.Thread(target=lambda: [session.save(tmp_path / "chat") for _ in range(3)])
        saving.start()
        assert stream.result.timings.output_tokens == 400
        saving.join()
        assert client.restore(tmp_path / "chat").state().num_turns == 1
