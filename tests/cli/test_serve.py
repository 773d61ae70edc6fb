"""`edge-runtime serve` as a process: signals, restarts, a second one, and `ask` against it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_runtime.devices.profile import profiles_folder
from edge_runtime.errors import ConnectionLost, ShuttingDown
from edge_runtime.serving.client import Client
from edge_runtime.serving.images import question

# Shells start what runs in the background with SIGINT ignored, and children inherit that.
SIGINT_WORKS = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
# An answer that is still being written when a test interrupts it, however slow the test is: minutes of this model. No
# profile that ships has room for it on every machine, so the servers here run with one of their own.
LONG = 60_000
RUN = "from edge_runtime.cli.main import app; app()"
COMMAND = [sys.executable, "-c", SIGINT_WORKS + RUN]


class Served:
    """A running `edge-runtime serve`, after it has said where it serves."""

    def __init__(self, bundle: Path, bind: str, *options: str, first: str = "") -> None:
        """`first`: Python that is run before the command."""
        command = [sys.executable, "-c", SIGINT_WORKS + first + RUN, "serve", str(bundle), "--bind", bind, *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.lines: list[str] = []
        for line in self.process.stdout:
            self.lines.append(line)
            if line.startswith("serving "):
                break
        self.address = self.lines[-1].split()[-1]

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)


@pytest.fixture
def served(tiny_bundle: Path, tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Starts servers of the tiny bundle, whose context has room for `LONG`."""
    started: list[Served] = []
    generic = (profiles_folder() / "cpu-generic.toml").read_text()
    roomy = re.sub("(context_tokens =) .*", rf"\1 {LONG + 256}", generic.replace('"cpu-generic"', '"roomy"', 1))
    (tmp_path / "roomy.toml").write_text(roomy)

    def start(bind: str = "tcp://127.0.0.1:*", *options: str) -> Served:
        started.append(Served(tiny_bundle, bind, "--profile", str(tmp_path / "roomy.toml"), *options))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.communicate()


def ask(target: object, *arguments: object) -> dict[str, object]:
    command = [*COMMAND, "ask", target, "hello", "--json", "--max-tokens", 6, *arguments]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout)) | {"timings": None}


def test_prints_the_plan_serves_and_ends_at_sigterm(served: Callable[..., Served], tiny_bundle: Path) -> None:
    server = served()
    assert any("KV cache" in line for line in server.lines)
    assert ask(server.address) == ask(tiny_bundle)
    assert server.end(signal.SIGTERM) == 0


def test_sigterm_ends_what_is_in_flight_and_exits_0(served: Callable[..., Served]) -> None:
    server = served()
    with Client(server.address) as client:
        short = client.generate(question("hello"), max_tokens=3)
        long = client.generate(question("hello"), max_tokens=LONG)
        next(long)
        server.process.send_signal(signal.SIGTERM)
        assert short.result.finish_reason == "length"
        server.process.send_signal(signal.SIGTERM)  # do not wait for the long one
        with pytest.raises(ShuttingDown):
            long.result  # noqa: B018
    assert server.process.wait(60) == 0


def test_ctrl_c_exits_0(served: Callable[..., Served]) -> None:
    assert served().end(signal.SIGINT) == 0


def test_a_signal_that_does_not_interrupt_the_wait_ends_the_server(tiny_bundle: Path) -> None:
    """One that comes just before the wait begins interrupts nothing. Here another thread gets it, to that effect."""
    shoot = "input(), time.sleep(1), signal.pthread_kill(threading.get_ident(), signal.SIGTERM)"
    script = f"import signal, threading, time; threading.Thread(target=lambda: ({shoot}), daemon=True).start(); "
    command = [sys.executable, "-c", script + "from edge_runtime.cli.main import app; app()"]
    command += ["serve", str(tiny_bundle), "--bind", "tcp://127.0.0.1:*"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert any(line.startswith("serving ") for line in process.stdout)
            process.stdin.write("now\n")
            process.stdin.flush()
            assert process.wait(60) == 0
        finally:
            process.kill()


def test_second_server_on_the_same_address(served: Callable[..., Served], tiny_bundle: Path) -> None:
    server = served()
    command = [*COMMAND, "serve", str(tiny_bundle), "--bind", server.address]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "already listens" in done.stderr
    assert ask(server.address)["finish_reason"] == "length"


def test_killed_server_loses_requests_and_its_successor_serves_the_same_client(served: Callable[..., Served]) -> None:
    first = served()
    with Client(first.address) as client:
        stream = client.generate(question("hello"), max_tokens=LONG)
        next(stream)
        first.end(signal.SIGKILL)
        with pytest.raises(ConnectionLost, match="lost"):
            stream.result  # noqa: B018
        served(first.address)
        assert client.ask("hello", max_tokens=3).finish_reason == "length"


def test_interrupted_ask_exits_130_and_frees_the_server(served: Callable[..., Served]) -> None:
    server = served()
    command = [*COMMAND, "ask", server.address, "hello", "--max-tokens", str(LONG)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stderr is not None
        assert b"Traceback" not in process.stderr.read()
    assert server.end(signal.SIGTERM) == 0  # at once: nothing is in flight any more


def test_video_by_address_is_video_in_process(served: Callable[..., Served], tiny_bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 4.0, (64, 64))
    for value in range(12):
        writer.write(np.full((64, 64, 3), 20 * value, np.uint8))
    writer.release()
    in_process = ask(tiny_bundle, "--video", path)
    assert ask(served().address, "--video", path) == in_process
    assert in_process != ask(tiny_bundle)


def test_ping_says_who_answers_and_fails_where_nobody_does(served: Callable[..., Served], tmp_path: Path) -> None:
    server = served(f"ipc://{tmp_path}/s")
    done = subprocess.run([*COMMAND, "ping", server.address], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert re.fullmatch(r"\S+ \(\S+\) at \S+: 0 of 64 requests in flight, [\d.]+ ms\n.*\n", done.stdout)
    assert "found again: 0 of 0 prompt tokens, 0 of 0 images\n" in done.stdout
    assert server.end(signal.SIGTERM) == 0
    assert not (tmp_path / "s").exists()
    command = [*COMMAND, "ping", server.address, "--timeout", "0.2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "no server answered" in done.stderr
    assert done.stdout == ""


def test_socket_mode_is_that_of_the_file(served: Callable[..., Served], tiny_bundle: Path, tmp_path: Path) -> None:
    server = served(f"ipc://{tmp_path}/s", "--socket-mode", "0660", "--socket-group", str(os.getgid()))
    assert (tmp_path / "s").stat().st_mode & 0o777 == 0o660
    assert server.end(signal.SIGKILL) == -signal.SIGKILL
    assert (tmp_path / "s").exists()
    successor = served(server.address)  # a stale socket is no obstacle
    assert (tmp_path / "s").stat().st_mode & 0o777 == 0o600
    assert ask(successor.address)["finish_reason"] == "length"
    for wrong in ("660x", "0060", "1777", "9"):
        command = [*COMMAND, "serve", str(tiny_bundle), "--bind", f"ipc://{tmp_path}/t", "--socket-mode", wrong]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert "three octal digits" in done.stderr


def test_drain_seconds_bound_the_wait_at_sigterm(served: Callable[..., Served]) -> None:
    server = served("tcp://127.0.0.1:*", "--drain-seconds", "0")
    with Client(server.address) as client:
        stream = client.generate("hello", max_tokens=LONG)
        next(stream)
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(ShuttingDown):
            stream.result  # noqa: B018
    assert server.process.wait(60) == 0
