"""Taking an address, rights of the socket's file, giving it back; and too few descriptors for all who come."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.errors import AddressInUse, BadParameter, ConnectionLost, EdgeError, ServerError
from edge_runtime.serving import listener as listener_module
from edge_runtime.serving.client import Client
from edge_runtime.serving.client_core import Timeouts
from edge_runtime.serving.listener import Listener

Serve = Callable[..., Any]


def connect(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def leave_stale_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))


@pytest.mark.parametrize(("mode", "wanted"), [(None, 0o600), (0o660, 0o660), (0o666, 0o666)])
def test_mode_and_group_of_the_file_whatever_the_umask(tmp_path: Path, mode: int | None, wanted: int) -> None:
    path = tmp_path / "s"
    before = os.umask(0o077)
    try:
        listener = Listener(f"ipc://{path}", mode, str(os.getgid()))
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == wanted
    assert path.stat().st_gid == os.getgid()
    listener.close()


def test_nobody_connects_before_the_rights_are_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, tried = tmp_path / "s", []

    def try_to_connect(*arguments: Any) -> None:
        with pytest.raises(ConnectionRefusedError):
            connect(path)
        tried.append(arguments)

    monkeypatch.setattr(listener_module, "_set_rights", try_to_connect)
    listener = Listener(f"ipc://{path}", None, None)
    connect(path)
    assert len(tried) == 1
    listener.close()


def test_what_cannot_be_set_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadParameter, match="no file to set a mode"):
        Listener("tcp://127.0.0.1:*", 0o660, None)
    with pytest.raises(BadParameter, match="no file to set a mode"):
        Listener("ipc://@abstract", None, "kiosk")
    with pytest.raises(BadParameter, match="no group 'no-such-group'"):
        Listener(f"ipc://{tmp_path}/s", None, "no-such-group")

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refuse)
    with pytest.raises(ServerError, match="must be a member"):
        Listener(f"ipc://{tmp_path}/s", None, "0")
    assert list(tmp_path.iterdir()) == []


def test_file_goes_at_close_but_not_that_of_a_successor(tmp_path: Path) -> None:
    path = tmp_path / "s"
    Listener(f"ipc://{path}", None, None).close()
    assert not path.exists()
    first = Listener(f"ipc://{path}", None, None)
    path.unlink()  # by somebody who thought it was stale
    second = Listener(f"ipc://{path}", None, None)
    first.close()
    connect(path)
    second.close()
    assert not path.exists()


def test_of_many_servers_that_find_a_stale_file_one_gets_it(tmp_path: Path) -> None:
    for attempt in range(10):
        path = tmp_path / f"s{attempt}"
        leave_stale_socket(path)
        barrier, got, refused = threading.Barrier(8), [], []

        def start(path: Path = path, barrier: Any = barrier, got: Any = got, refused: Any = refused) -> None:
            barrier.wait()
            try:
                got.append(Listener(f"ipc://{path}", None, None))
            except AddressInUse as error:
                refused.append(error)

        threads = [threading.Thread(target=start) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert (len(got), len(refused)) == (1, 7)
        connect(path)
        got[0].close()


def test_links_and_folders_are_not_taken_for_stale_sockets(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder").mkdir()
    for name in ("link", "folder"):
        with pytest.raises(BadParameter, match="is not a socket"):
            Listener(f"ipc://{tmp_path}/{name}", None, None)
    assert (tmp_path / "link").is_symlink()
    with pytest.raises(ServerError, match="cannot listen"):
        Listener(f"ipc://{tmp_path}/missing/s", None, None)


def test_folder_that_another_program_has_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener_module, "_LOCK_PATIENCE_S", 0.0)
    with listener_module._locked(tmp_path), pytest.raises(ServerError, match="holds a lock"):
        Listener(f"ipc://{tmp_path}/s", None, None)


@pytest.mark.parametrize("kind", ["tcp", "ipc"])
def test_connections_beyond_the_descriptors_are_turned_away_and_later_ones_served(
    serve: Serve, tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    running = serve(bind="tcp://127.0.0.1:*" if kind == "tcp" else f"ipc://{tmp_path}/s")
    listener = running.server._router._listener
    with Client(running.address) as old:
        assert old.ask("count 1").text == "0 "
        listener.max_descriptor = 0  # as if every number up to the limit were in use
        for _ in range(3):
            with Client(running.address, timeouts=Timeouts(connect_s=20)) as new, pytest.raises(ConnectionLost):
                new.ask("count 1")
        assert old.ask("count 2").text == "0 1 "
        listener.max_descriptor = None
        with Client(running.address) as new:
            assert new.ask("count 1").text == "0 "
    lines = [record.message for record in caplog.records if "turned a connection away" in record.message]
    assert len(lines) == 1
    assert "LimitNOFILE" in lines[0]


def test_descriptor_that_is_not_a_connection_is_left_alone() -> None:
    listener = Listener("tcp://127.0.0.1:*", None, None)
    listener.max_descriptor = 0
    reader, writer = os.pipe()
    ours, theirs = socket.socketpair()
    assert not listener.turn_away(reader)
    assert not listener.turn_away(ours.fileno())
    os.write(writer, b"x")
    theirs.send(b"y")
    assert (os.read(reader, 1), ours.recv(1)) == (b"x", b"y")
    for descriptor in (reader, writer):
        os.close(descriptor)
    ours.close()
    theirs.close()
    listener.close()


def test_client_says_what_it_sees_of_why_nobody_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s"
    with Client(f"ipc://{path}", timeouts=Timeouts(connect_s=0.1)) as client:
        with pytest.raises(ConnectionLost, match="there is no socket"):
            client.info()
        leave_stale_socket(path)
        with pytest.raises(ConnectionLost, match="is `edge-runtime serve` running"):
            client.info()
        monkeypatch.setattr(os, "access", lambda *_: False)
        with pytest.raises(ConnectionLost, match=r"may not connect .* \(serve --socket-mode"):
            client.info()


def test_every_refusal_is_an_edge_error_and_leaves_no_descriptor(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for address in (
        f"ipc://{tmp_path}/missing/s",
        f"ipc://{tmp_path}",
        "tcp://127.0.0.1:1" if os.getuid() else "ipc:///s/s",
    ):
        with pytest.raises(EdgeError):
            Listener(address, None, None)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
