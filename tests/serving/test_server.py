"""The server's rules at their edges: overload, slow, silent and vanished clients, stopping, addresses."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from socket import AF_UNIX
from socket import socket as Socket
from typing import Any

import msgpack
import pytest
import zmq

from edge_runtime.engine.thread import EngineThread
from edge_runtime.errors import AddressInUse, BadParameter, InternalError, ServerError
from edge_runtime.serving.address import refuse_live_ipc
from edge_runtime.serving.client import Client
from edge_runtime.serving.limits import DEFAULT_LIMITS
from edge_runtime.serving.server import Server
from edge_runtime.serving.settings import ServerSettings
from tests.serving.conftest import MODEL, FakeEngine

Serve = Callable[..., Any]


@pytest.fixture
def dealer() -> Iterator[Callable[..., zmq.Socket[bytes]]]:
    context = zmq.Context()
    sockets: list[zmq.Socket[bytes]] = []

    def connect(address: str, **options: int) -> zmq.Socket[bytes]:
        socket = context.socket(zmq.DEALER)
        for name, value in {"LINGER": 0, "RCVTIMEO": 20_000, **options}.items():
            socket.setsockopt(getattr(zmq, name), value)
        socket.connect(address)
        sockets.append(socket)
        return socket

    yield connect
    for socket in sockets:
        socket.close(0)
    context.term()


def ask(socket: zmq.Socket[bytes], prompt: str, request_id: str = "1", *frames: bytes) -> None:
    content = [{"type": "text", "text": prompt}]
    header = {"type": "generate", "id": request_id, "messages": [{"role": "user", "content": content}]}
    socket.send_multipart([msgpack.packb(header), *frames])


def read(socket: zmq.Socket[bytes], *types: str) -> dict[str, Any]:
    """The next message of one of these types."""
    while True:
        message = msgpack.unpackb(socket.recv())
        if message["type"] in types:
            return dict(message)


def test_overload_of_a_client_and_of_the_server(serve: Serve, dealer: Callable[..., zmq.Socket[bytes]]) -> None:
    import msgspec

    limits = msgspec.structs.replace(DEFAULT_LIMITS, max_in_flight=3, max_in_flight_per_client=2)
    running = serve(limits=limits)
    first, second = dealer(running.address), dealer(running.address)
    for number in range(3):
        ask(first, "hold", str(number))
    refused = read(first, "failed")
    assert (refused["id"], refused["code"], refused["retryable"]) == ("2", "overloaded", True)
    ask(second, "hold", "a")
    assert read(second, "accepted")["id"] == "a"
    ask(second, "hold", "b")
    assert read(second, "failed") | {"message": ""} == refused | {"id": "b", "message": ""}
    first.send(msgpack.packb({"type": "cancel", "id": "0"}))
    assert read(first, "failed")["id"] == "0"
    ask(second, "count 1", "c")
    assert read(second, "finished", "failed")["type"] == "finished"


def test_pictures_in_flight_have_a_budget(serve: Serve, dealer: Callable[..., zmq.Socket[bytes]]) -> None:
    import msgspec

    running = serve(limits=msgspec.structs.replace(DEFAULT_LIMITS, max_in_flight_bytes=150))
    socket = dealer(running.address)
    ask(socket, "hold", "first", b"x" * 200)  # alone it is taken, whatever its size
    assert read(socket, "accepted", "failed")["type"] == "accepted"
    ask(socket, "hold", "second", b"x")
    refused = read(socket, "failed")
    assert (refused["id"], refused["code"], refused["retryable"]) == ("second", "overloaded", True)
    assert "200 bytes of pictures" in refused["message"]
    ask(socket, "count 1", "text only")
    assert read(socket, "finished", "failed")["type"] == "finished"
    socket.send(msgpack.packb({"type": "cancel", "id": "first"}))
    assert read(socket, "failed")["id"] == "first"
    ask(socket, "count 1", "third", b"x" * 100)
    assert read(socket, "finished", "failed")["type"] == "finished"


def test_a_socket_of_another_user_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = tmp_path / "s.sock"
    with Socket(AF_UNIX) as taken:
        taken.bind(str(path))
        monkeypatch.setattr(Socket, "connect", refuse)
        with pytest.raises(ServerError, match="another user"):
            refuse_live_ipc(f"ipc://{path}")


def test_duplicate_id_does_not_end_the_first(serve: Serve, dealer: Callable[..., zmq.Socket[bytes]]) -> None:
    socket = dealer(serve().address)
    ask(socket, "hold", "x")
    assert read(socket, "delta")["id"] == "x"
    ask(socket, "count 1", "x")
    complaint = read(socket, "failed", "finished")
    assert (complaint["type"], complaint["id"], complaint["code"]) == ("failed", "", "protocol_error")
    socket.send(msgpack.packb({"type": "cancel", "id": "x"}))
    assert read(socket, "failed")["id"] == "x"


def test_the_same_id_from_two_clients_is_two_requests(serve: Serve, dealer: Callable[..., zmq.Socket[bytes]]) -> None:
    address = serve().address
    sockets = [dealer(address), dealer(address)]
    for number, socket in enumerate(sockets, 1):
        ask(socket, f"count {number}", "same")
    assert [read(socket, "finished")["text"] for socket in sockets] == ["0 ", "0 1 "]


def test_client_that_closes_loses_its_work(serve: Serve, dealer: Callable[..., zmq.Socket[bytes]]) -> None:
    running = serve()
    socket = dealer(running.address)
    ask(socket, "hold")
    read(socket, "delta")
    socket.close(0)
    running.engine.wait_until_idle(1)
    with Client(running.address) as client:
        assert client.ask("count 1").text == "0 "
    assert running.server.tally.lost == 1


def test_killed_client_loses_its_work(serve: Serve) -> None:
    running = serve()
    program = f"""
        from edge_runtime.serving.client import Client
        from edge_runtime.serving.images import question
        stream = Client({running.address!r}).generate(question("hold"))
        next(stream)
        print("streaming", flush=True)
        next(stream)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"streaming\n"
        process.send_signal(signal.SIGKILL)
    running.engine.wait_until_idle(1)


def test_silent_client_loses_its_work_and_is_told(serve: Serve, dealer: Callable[..., zmq.Socket[bytes]]) -> None:
    socket = dealer(serve(client_timeout_s=0.3).address)
    ask(socket, "hold")
    failed = read(socket, "failed")
    assert (failed["id"], failed["code"]) == ("1", "cancelled")
    assert "nothing was heard" in failed["message"]
    ask(socket, "count 1", "2")
    assert read(socket, "finished")["id"] == "2"


def test_patient_client_is_not_silent(serve: Serve) -> None:
    """`Client` pings by itself, as often as `accepted` says it must."""
    running = serve(client_timeout_s=0.4)
    with Client(running.address) as client, client.generate([_hold()]) as stream:
        next(stream)
        heard = threading.Event()
        original = running.server._router.receive
        count = 0

        def counting(limit: int) -> Any:
            nonlocal count
            for item in original(limit):
                count += 1
                if count >= 8:  # 8 pings 0.1 s apart: twice the time a silent client has
                    heard.set()
                yield item

        running.server._router.receive = counting
        assert heard.wait(20)
        stream.cancel()
        with pytest.raises(Exception, match="the request was cancelled"):
            next(stream)


def test_client_that_does_not_read_loses_its_work_but_keeps_its_endings(
    serve: Serve, dealer: Callable[..., zmq.Socket[bytes]]
) -> None:
    running = serve(max_unread_messages=5)
    running.engine.floodgate.clear()
    slow = dealer(running.address, RCVHWM=1, RCVBUF=4096)
    for number in range(3):
        ask(slow, "flood", str(number))
    running.engine.open_floodgate(3)
    running.engine.wait_until_idle(3)
    with Client(running.address) as client:  # the others are served meanwhile
        assert client.ask("count 1").text == "0 "
    endings = [read(slow, "failed", "finished") for _ in range(3)]
    assert sorted(ending["id"] for ending in endings) == ["0", "1", "2"]
    assert all("does not read" in ending["message"] for ending in endings)
    ask(slow, "count 1", "again")
    assert read(slow, "finished", "failed")["id"] == "again"


def test_stop_lets_short_work_finish_and_fails_the_rest(serve: Serve, dealer: Callable[..., zmq.Socket[bytes]]) -> None:
    running = serve(shutdown_grace_s=0.5)
    socket = dealer(running.address)
    ask(socket, "hold", "long")
    read(socket, "delta")
    ask(socket, "count 3", "short")
    read(socket, "accepted")
    running.server.stop()
    assert read(socket, "finished", "failed")["type"] == "finished"
    ask(socket, "count 1", "late")
    late = read(socket, "failed")
    assert (late["id"], late["code"], late["retryable"]) == ("late", "shutting_down", True)
    assert (failed := read(socket, "failed"))["id"] == "long"
    assert failed["code"] == "shutting_down"
    running.join()
    assert running.errors == []


def test_second_stop_does_not_wait(serve: Serve, dealer: Callable[..., zmq.Socket[bytes]]) -> None:
    running = serve(shutdown_grace_s=3600)
    socket = dealer(running.address)
    ask(socket, "hold")
    read(socket, "delta")
    running.server.stop()
    running.server.stop()
    assert read(socket, "failed")["code"] == "shutting_down"
    running.join()


def test_engine_crash_fails_everything_and_ends_the_server(
    serve: Serve, dealer: Callable[..., zmq.Socket[bytes]]
) -> None:
    running = serve()
    socket = dealer(running.address)
    ask(socket, "hold", "innocent")
    read(socket, "delta")
    ask(socket, "crash", "guilty")
    endings = [read(socket, "failed", "finished") for _ in range(2)]
    assert {ending["id"]: ending["code"] for ending in endings} == {"innocent": "internal", "guilty": "internal"}
    running.join()
    assert isinstance(running.errors[0], InternalError)
    running.engine.running.clear()


@pytest.mark.parametrize("kind", ["tcp", "ipc"])
def test_second_server_on_the_same_address(serve: Serve, tmp_path: Any, kind: str) -> None:
    running = serve(bind="tcp://127.0.0.1:*" if kind == "tcp" else f"ipc://{tmp_path}/s")
    with pytest.raises(AddressInUse, match="already listens"):
        Server(ServerSettings(bind=running.address))
    with Client(running.address) as client:
        assert client.ask("count 1").text == "0 "


def test_stale_ipc_socket_is_replaced_but_a_file_is_not(serve: Serve, tmp_path: Any) -> None:
    path = tmp_path / "s"
    program = f"import socket, os; s = socket.socket(socket.AF_UNIX); s.bind({str(path)!r}); s.listen(); os._exit(0)"
    subprocess.run([sys.executable, "-c", program], check=True)
    with Client(serve(bind=f"ipc://{path}").address) as client:
        assert client.ask("count 1").text == "0 "
    (tmp_path / "file").write_text("precious")
    with pytest.raises(BadParameter, match="not a socket"):
        Server(ServerSettings(bind=f"ipc://{tmp_path}/file"))
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.parametrize(
    "address", ["tcp://0.0.0.0:5633", "tcp://*:5633", "tcp://192.168.1.5:1", "tcp://example.org:1", "tcp://[::]:1"]
)
def test_addresses_that_others_can_reach_are_refused(address: str) -> None:
    with pytest.raises(BadParameter, match="other machines"):
        Server(ServerSettings(bind=address))


@pytest.mark.parametrize(
    "address", ["5633", "tcp://127.0.0.1:0", "tcp://127.0.0.1:65536", "ipc://" + "x" * 200, "inproc://a"]
)
def test_malformed_addresses_are_refused(address: str) -> None:
    with pytest.raises(BadParameter, match=r"address|port"):
        Server(ServerSettings(bind=address))


def test_unwritable_ipc_folder_is_an_error() -> None:
    with pytest.raises(ServerError, match="cannot listen"):
        Server(ServerSettings(bind="ipc:///nonexistent/folder/s"))


def test_servers_and_clients_release_their_descriptors(serve: Serve) -> None:
    def once() -> None:
        running = serve()
        with Client(running.address) as client:
            client.ask("count 1")
        running.stop()

    once()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        once()
    # libzmq closes a client's socket a moment later, so a few may still be open; a leak would be 20 at least.
    assert len(list(Path("/proc/self/fd").iterdir())) - before < 20


def _hold() -> Any:
    from edge_runtime.serving.images import question

    return question("hold")[0]


def test_server_that_gets_no_threads_gives_its_address_back(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(ServerSettings(bind="tcp://127.0.0.1:*"))
    with monkeypatch.context() as patched:
        patched.setattr(EngineThread, "start", refuse_threads)
        with pytest.raises(RuntimeError, match="new thread"):
            server.run(FakeEngine(), MODEL)
    again = Server(ServerSettings(bind=server.address))
    again.close()


def refuse_threads(_: object) -> None:
    raise RuntimeError("can't start new thread")
