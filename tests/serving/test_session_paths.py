"""Which files a client may have the server read and write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edge_runtime.engine.kept_sessions import KeptSessions
from edge_runtime.errors import BadParameter, SessionFileError
from edge_runtime.serving.client import Client
from edge_runtime.serving.session_paths import session_path
from tests.serving.conftest import RunningServer

TCP, ABSTRACT, IPC = "tcp://127.0.0.1:5633", "ipc://@edge", "ipc:///run/edge.sock"


def test_over_a_socket_file_any_path_is_taken_and_over_others_only_the_folders(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    (folder / "deeper").mkdir(parents=True)
    (tmp_path / "out").symlink_to(folder)
    (folder / "in").symlink_to(tmp_path)
    assert not session_path(str(tmp_path / "chat"), IPC, None).is_ours
    for address in (TCP, ABSTRACT, IPC):
        for inside in (folder / "chat", folder / "deeper" / ".." / "chat", tmp_path / "out" / "chat"):
            found = session_path(str(inside), address, folder)
            assert (found.path, found.is_ours) == (folder / "chat", True)
    for outside in ("chat", "kept/../chat", "kept/in/chat", "kept/deeper/chat", "keptalike"):
        assert not session_path(str(tmp_path / outside), IPC, folder).is_ours
        for address in (TCP, ABSTRACT):
            with pytest.raises(SessionFileError, match=r"only as files in .*/kept, .* or serve at --bind ipc://"):
                session_path(str(tmp_path / outside), address, folder)
            with pytest.raises(SessionFileError, match=r"serve --keep-sessions DIR.* or serve at --bind ipc://"):
                session_path(str(tmp_path / outside), address, None)


@pytest.mark.parametrize("text", ["", "chat", "./chat", "~/chat", "/", "/tmp/..", "/tmp/a\0b", "/\0/b"])
def test_what_is_no_path_of_a_file_is_refused(text: str) -> None:
    with pytest.raises(SessionFileError, match="is not the absolute path of a file"):
        session_path(text, IPC, None)


def test_the_servers_own_names_and_folders_that_are_not_there(tmp_path: Path) -> None:
    for name in ("abc.kept", ".chat.saving"):
        with pytest.raises(SessionFileError, match="the server's own"):
            session_path(str(tmp_path / name), TCP, tmp_path)
    (tmp_path / "round").symlink_to(tmp_path / "round")
    for name in ("no/chat", "round/chat"):
        with pytest.raises(SessionFileError, match="there is no folder"):
            session_path(str(tmp_path / name), IPC, None)


def test_the_folder_is_the_servers_alone(tmp_path: Path) -> None:
    kept = KeptSessions(tmp_path / "new" / "kept")
    assert kept.folder.stat().st_mode & 0o777 == 0o700
    with pytest.raises(BadParameter, match="another server keeps its sessions"):
        KeptSessions(kept.folder)
    kept.close()
    kept.close()
    KeptSessions(kept.folder).close()
    for mode in (0o770, 0o702):
        kept.folder.chmod(mode)
        with pytest.raises(BadParameter, match="other users may write"):
            KeptSessions(kept.folder)
    (tmp_path / "file").touch()
    for wrong in ("file", "file/kept"):
        with pytest.raises(BadParameter, match="cannot be kept"):
            KeptSessions(tmp_path / wrong)


def test_a_refusal_reaches_the_client(serve: Callable[..., RunningServer], tmp_path: Path) -> None:
    running = serve()
    with Client(running.address) as client, client.session() as session:
        with pytest.raises(SessionFileError, match="every user of this machine"):
            session.save(tmp_path / "chat")
        with pytest.raises(SessionFileError, match="every user of this machine"):
            client.restore("chat")
        with pytest.raises(BadParameter, match="is not a path"):
            client.restore(7)  # type: ignore[arg-type]
        assert session.ask("count 1").text == "0 "
