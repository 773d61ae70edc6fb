"""A server that dies while it saves a session: what is at the path is what was there before, or the whole new one."""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

from edge_runtime.engine.pocket import pocket_bundle
from edge_runtime.engine.session_file import PARTIAL_SUFFIX
from edge_runtime.errors import BundleError, ConnectionLost, SessionFileError
from edge_runtime.model.pocket import checkpoint
from edge_runtime.serving.client import Client, Session
from tests.cli.test_serve import Served

SCREEN = Path(__file__).parents[2] / "examples" / "screens" / "device-settings.png"
RNG = Random("crash")
# Once a session is being written, the call of that number of a function kills the process, as kill -9 would.
BOMB = """
import os, pathlib, signal
from edge_runtime.engine import session_file
def arm(owner, name, number):
    function, calls = getattr(owner, name), []
    def count(*arguments, **named):
        calls.append(name)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **named)
    setattr(owner, name, count)
def open_partial(path, whole=session_file._open_partial):
    arm({owner}, {name!r}, {number})
    return whole(path)
session_file._open_partial = open_partial
"""
WRITER = "session_file.SessionFileWriter"
BEFORE_IT_IS_MOVED = {
    "nothing is written": (WRITER, "__init__", 1),
    "no part is written": (WRITER, "add", 1),
    "the header is missing": (WRITER, "finish", 1),
    "it is not on the disk": ("os", "fsync", 1),
    "it is in the wrong place": ("pathlib.Path", "replace", 1),
}
AFTER = ("os", "fsync", 2)


@pytest.fixture(scope="module")
def pocket(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        return pocket_bundle(checkpoint(), tmp_path_factory.mktemp("cache"))
    except BundleError as error:
        pytest.skip(str(error))


@pytest.fixture
def serve(pocket: Path, tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Starts a server in place of the last one."""
    started: list[Served] = []

    def stop() -> None:
        for one in started:
            one.process.kill()
            one.process.communicate()

    def start(bomb: tuple[str, str, int] | None = None) -> Served:
        stop()
        first = "" if bomb is None else BOMB.format(owner=bomb[0], name=bomb[1], number=bomb[2])
        started.append(Served(pocket, f"ipc://{tmp_path}/socket", first=first))
        return started[-1]

    yield start
    stop()


def ask(session: Session, question: str, **fields: object) -> tuple[int, ...]:
    return session.ask(question, max_tokens=12, **fields).token_ids  # type: ignore[arg-type]


def ask_once_more(session: Session) -> tuple[int, ...]:
    """The second turn, which is lost or saved."""
    return ask(session, "Click the Wi-Fi switch.")


def probe(session: Session) -> tuple[int, ...]:
    """What a session says next; it does not go on."""
    with session.fork() as fork:
        return ask(fork, "What is the title of this screen?")


def test_a_server_that_is_killed_while_it_saves_leaves_the_old_file_or_the_new_one(
    serve: Callable[..., Served], tmp_path: Path
) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    chat, old = folder / "chat", tmp_path / "old"
    with Client(serve().address) as client, client.session() as session:
        ask(session, "What is on this screen?", images=SCREEN)
        session.save(old)
        unbroken = {1: probe(session)}
        second = ask_once_more(session)
        unbroken[2] = probe(session)
    shutil.copy(old, chat)

    def check(client: Client, wanted: set[int]) -> Session:
        """What is there goes on as if nothing had happened."""
        session = client.restore(chat)
        num_turns = session.state().num_turns
        assert num_turns in wanted
        assert probe(session) == unbroken[num_turns]
        return session

    wanted = {1}
    for bomb in (*BEFORE_IT_IS_MOVED.values(), AFTER):
        with Client(serve(bomb).address) as client:
            session = check(client, wanted)
            assert ask_once_more(session) == second
            with pytest.raises(ConnectionLost):
                session.save(chat)
        wanted = {2} if bomb is AFTER else {1}
        # At most one file is left, which the next save to that place takes over.
        left = {chat.name} if bomb is AFTER else {chat.name, f".{chat.name}{PARTIAL_SUFFIX}"}
        assert {path.name for path in folder.iterdir()} == left

    server = serve()
    with Client(server.address) as client:
        check(client, {2})
        shutil.copy(old, chat)
        session = check(client, {1})
        ask_once_more(session)
        kill_while_it_saves(server, session, chat)
    assert len(list(folder.iterdir())) <= 2
    with Client(serve().address) as client:
        session = check(client, {1, 2})
        session.save(chat)
        session.save(folder / "another")
    assert {path.name for path in folder.iterdir()} == {"chat", "another"}


def kill_while_it_saves(server: Served, session: Session, path: Path) -> None:
    """At a random moment, over and over, from the first byte of one save on."""
    stop = threading.Event()

    def save() -> None:
        with pytest.raises(ConnectionLost):
            while not stop.is_set():
                session.save(path)

    saving = threading.Thread(target=save)
    saving.start()
    time.sleep(RNG.random() / 5)
    server.end(signal.SIGKILL)
    stop.set()
    saving.join(60)
    assert not saving.is_alive()


def test_a_first_save_that_is_killed_leaves_no_file(serve: Callable[..., Served], tmp_path: Path) -> None:
    with Client(serve(BEFORE_IT_IS_MOVED["it is in the wrong place"]).address) as client, pytest.raises(ConnectionLost):
        client.session(messages="hello").save(tmp_path / "chat")
    with Client(serve().address) as client:
        with pytest.raises(SessionFileError, match="No such file"):
            client.restore(tmp_path / "chat")
        with pytest.raises(SessionFileError, match="the server's own"):
            client.restore(tmp_path / f".chat{PARTIAL_SUFFIX}")
