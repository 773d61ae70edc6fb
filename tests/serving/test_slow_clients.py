"""Clients that do not read, are stopped, or ask on without reading: every request ends once at the client."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import msgpack
import pytest
import zmq

from edge_runtime.errors import Cancelled, Overloaded
from edge_runtime.serving import messages as wire
from edge_runtime.serving.client import Client
from edge_runtime.serving.client_core import ClientCore, Timeouts
from edge_runtime.serving.connections import Connections, Keep, Tally
from edge_runtime.serving.sockets import Sent
from edge_runtime.serving.summary import Summary

Serve = Callable[..., Any]


def take_little(socket: zmq.Socket[bytes]) -> None:
    for option, value in ((zmq.LINGER, 0), (zmq.RCVHWM, 1), (zmq.RCVBUF, 4096), (zmq.RCVTIMEO, 20_000)):
        socket.setsockopt(option, value)


def ask_for_three_floods(socket: zmq.Socket[bytes], engine: Any) -> None:
    """And wait until the engine has given each of them up."""
    engine.floodgate.clear()
    for number in range(3):
        content = [{"type": "text", "text": "flood"}]
        header = {"type": "generate", "id": str(number), "messages": [{"role": "user", "content": content}]}
        socket.send(msgpack.packb(header))
    engine.open_floodgate(3)
    engine.wait_until_idle(3)


def test_connection_of_a_client_that_does_not_read_stands(serve: Serve) -> None:
    """Longer than any heartbeat of ZeroMQ's own would wait; its endings are then all there."""
    running = serve(max_unread_messages=5)
    with zmq.Context() as context, context.socket(zmq.DEALER) as slow:
        take_little(slow)
        monitor = slow.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        slow.connect(running.address)
        ask_for_three_floods(slow, running.engine)
        assert monitor.poll(8500) == 0, "the connection was cut"
        endings: list[str] = []
        while len(endings) < 3:
            message = msgpack.unpackb(slow.recv())
            if message["type"] == "failed":
                assert "does not read" in message["message"]
                endings.append(message["id"])
        assert sorted(endings) == ["0", "1", "2"]
        slow.disable_monitor()
        monitor.close(0)


def test_endings_that_wait_are_delivered_while_the_server_stops(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_runtime.serving.server._FAREWELL_S", 20.0)
    running = serve(max_unread_messages=5)
    with zmq.Context() as context, context.socket(zmq.DEALER) as slow:
        take_little(slow)
        slow.connect(running.address)
        ask_for_three_floods(slow, running.engine)
        running.server.stop()
        endings = 0
        while endings < 3:
            endings += msgpack.unpackb(slow.recv())["type"] == "failed"
        running.join()


def test_stopped_client_gets_its_ending_when_it_goes_on(serve: Serve) -> None:
    """SIGSTOP, longer than both sides' patience: it is told why its work was cancelled, not that the server is lost."""
    running = serve(client_timeout_s=0.3)
    program = f"""
        from edge_runtime.errors import EdgeError
        from edge_runtime.serving.client import Client
        from edge_runtime.serving.client_core import Timeouts
        from edge_runtime.serving.images import question
        with Client({running.address!r}, timeouts=Timeouts(server_silence_s=0.5, idle_s=0.5)) as client:
            stream = client.generate(question("hold"))
            next(stream)
            print("streaming", flush=True)
            try:
                next(stream)
            except EdgeError as error:
                print(type(error).__name__, error, flush=True)
            print(client.ask("count 1").text, flush=True)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "streaming\n"
        child.send_signal(signal.SIGSTOP)
        running.engine.wait_until_idle(1)
        with Client(running.address) as other, other.generate("hold") as stream:  # time passes, and the server serves
            assert next(stream).text == "0 "
            with pytest.raises(subprocess.TimeoutExpired):
                child.wait(2)
        child.send_signal(signal.SIGCONT)
        assert child.stdout.readline().startswith("Cancelled cancelled: nothing was heard from the client")
        assert child.stdout.readline() == "0 \n"


def test_driver_that_was_stopped_moves_everything_that_is_due() -> None:
    core = ClientCore("x", Timeouts(connect_s=5, server_silence_s=20))
    core.begin("1", 100.0)
    core.postpone(1000.0)
    assert core.tick(1104.9)[1] == []
    assert not core.server_is_silent(1104.9)
    assert len(core.tick(1105.0)[1]) == 1


class FullRouter:
    """Takes nothing until it is `open`."""

    def __init__(self) -> None:
        self.open = False
        self.sent: list[bytes] = []

    def send(self, identity: bytes, payload: bytes) -> Sent:
        if not self.open:
            return Sent.FULL
        self.sent.append(payload)
        return Sent.OK


def test_refusals_never_crowd_out_the_endings_of_accepted_requests() -> None:
    router = FullRouter()
    connections = Connections(router, lambda _: None, Tally(), Summary(logging.getLogger("test")))  # type: ignore[arg-type]
    for number in range(5000):
        refusal = wire.Failed(request_id=f"refused {number}", code=Overloaded.code, message="no")
        connections.post(b"client", refusal, keep=Keep.REFUSAL)
    for number in range(3):
        connections.post(
            b"client", wire.Failed(request_id=str(number), code=Cancelled.code, message="x"), keep=Keep.ENDING
        )
    router.open = True
    connections.heartbeat(1.0, 1e9)
    *answers, pong = map(wire.decode_server_message, router.sent)
    assert isinstance(pong, wire.Pong)
    ids = [answer.request_id for answer in answers]  # type: ignore[union-attr]
    assert len(ids) == len(set(ids)) == 1003
    assert ids[-3:] == ["0", "1", "2"]
    assert connections.all() == []


def test_server_that_slept_takes_nobody_for_silent() -> None:
    router = FullRouter()
    router.open = True
    cancelled: list[str] = []
    connections = Connections(router, cancelled.append, Tally(), Summary(logging.getLogger("test")))  # type: ignore[arg-type]
    connections.heartbeat(100.0, 30.0)
    connections.accept(b"client", "1", 0, 100.0)
    connections.heartbeat(500.0, 30.0)  # nothing was read for 400 s, so nothing can have been heard
    assert cancelled == []
    for now_s in range(501, 532):
        connections.heartbeat(float(now_s), 30.0)
    assert cancelled == ["r1"]


def test_thousand_refusals_are_a_few_lines(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 1000.0
    monkeypatch.setattr("edge_runtime.serving.summary.time.monotonic", lambda: now_s)
    caplog.set_level(logging.INFO)
    summary = Summary(logging.getLogger("test"))
    for number in range(1000):
        summary.note(logging.INFO, "overloaded", f"refused {number}")
    summary.note(logging.WARNING, "other", "something else")
    assert [record.message for record in caplog.records] == ["refused 0", "something else"]
    assert summary.due_s == 1060.0
    now_s = 1060.0
    summary.flush(now_s)
    assert caplog.records[-1].message == "999 more in 60 s of the kind 'overloaded'; the last: refused 999"
    assert summary.due_s is None
    summary.note(logging.INFO, "overloaded", "again")
    summary.flush(None)
    assert caplog.records[-1].message == "1 more in 0 s of the kind 'overloaded'; the last: again"
