"""The client's thread meets shortages, bugs and forks: whoever waits gets an error, and the next request works."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq

from edge_runtime.errors import BadParameter, ConnectionLost
from edge_runtime.serving.async_client import AsyncClient
from edge_runtime.serving.client import Client
from edge_runtime.serving.client_core import ClientCore, Timeouts
from edge_runtime.serving.sockets import Dealer

Serve = Callable[..., Any]


@contextmanager
def no_descriptors() -> Iterator[None]:
    """Nothing more can be opened in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(entry.name) for entry in Path("/proc/self/fd").iterdir())
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(2)]
    try:
        while held[-1] < highest:
            held.append(os.dup(held[0]))
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(held) + 1, hard))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in held:
            os.close(descriptor)


def test_without_descriptors_every_caller_is_told_and_later_served(serve: Serve) -> None:
    running = serve()
    with Client(running.address) as client, Client(running.address) as begun:
        with begun.generate("hold") as stream:
            next(stream)
        begun._link._do(lambda: begun._link._lose("test"))  # it has its thread, and must connect anew
        with no_descriptors():
            for call in (client.info, lambda: client.ask("count 1"), begun.info, lambda: begun.ask("count 1")):
                with pytest.raises(ConnectionLost, match="Too many open files") as raised:
                    call()
                assert raised.value.retryable
        assert client.ask("count 1").text == begun.ask("count 2").text[:2] == "0 "


async def test_without_descriptors_async(serve: Serve) -> None:
    async with AsyncClient(serve().address) as client:
        with no_descriptors():
            for call in (client.info, lambda: client.ask("count 1")):
                with pytest.raises(ConnectionLost, match="Too many open files"):
                    await call()
        assert (await client.ask("count 1")).text == "0 "


def test_without_threads(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    running = serve()

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with Client(running.address) as client, Client(running.address) as other:
        other.info()  # the server has its threads
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", refuse)
            with pytest.raises(ConnectionLost, match="new thread"):
                client.info()
        assert client.ask("count 1").text == "0 "


@pytest.mark.parametrize("failure", [MemoryError(), zmq.ZMQError(zmq.ENOTSOCK), ZeroDivisionError("a bug")])
def test_failure_of_the_connection_answers_everybody(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    with Client(serve().address) as client:
        streams = [client.generate("hold") for _ in range(3)]
        for stream in streams:
            next(stream)

        def fail(_: Dealer) -> Any:
            raise failure

        with monkeypatch.context() as patched:
            patched.setattr(Dealer, "receive", fail)
            streams[0].cancel()  # the server's answer to it wakes the thread
            for stream in streams:
                with pytest.raises(ConnectionLost, match=type(failure).__name__):
                    next(stream)
        assert client.ask("count 1").text == "0 "


@pytest.mark.parametrize("failure", [MemoryError(), ZeroDivisionError("a bug")])
def test_failure_to_send_answers_the_sender(serve: Serve, monkeypatch: pytest.MonkeyPatch, failure: Exception) -> None:
    with Client(serve().address) as client, client.generate("hold") as other:
        next(other)

        def fail(*_: object) -> Any:
            raise failure

        with monkeypatch.context() as patched:
            patched.setattr(Dealer, "send", fail)
            with pytest.raises(ConnectionLost, match=type(failure).__name__):
                client.ask("count 1")
        assert client.ask("count 1").text == "0 "


def test_failure_of_the_thread_itself_answers_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    with Client("tcp://127.0.0.1:1") as client:

        def fail(*_: object) -> Any:
            raise ZeroDivisionError("a bug")

        monkeypatch.setattr(ClientCore, "next_tick_s", fail)
        with pytest.raises(ConnectionLost):
            client.ask("count 1")


def test_fork_begins_anew_in_the_child_and_changes_nothing_in_the_parent(serve: Serve) -> None:
    running = serve()
    program = f"""
        import os, sys
        from edge_runtime.errors import ConnectionLost
        from edge_runtime.serving.client import Client
        client = Client({running.address!r})
        stream = client.generate("hold")
        next(stream)
        if not (child := os.fork()):
            try:
                next(stream)
            except ConnectionLost as error:
                assert "forked" in str(error)
                assert client.ask("count 2").text == "0 1 "
                os._exit(7)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert client.ask("count 1").text == "0 "
        stream.cancel()
        client.close()
    """
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "wrong", [{"connect_s": "5"}, {"idle_s": 0}, {"first_token_s": float("nan")}, {"idle_s": True}]
)
def test_timeouts_that_are_no_times_are_refused(wrong: Any) -> None:
    with pytest.raises(BadParameter, match=f"timeout {next(iter(wrong))}"):
        Timeouts(**wrong)
    with pytest.raises(BadParameter, match="server_silence_s"):
        Timeouts(server_silence_s=None)  # type: ignore[arg-type]
