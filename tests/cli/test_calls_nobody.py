"""README's promise that nothing here calls home. The commands run as processes, in a fresh home, nothing switched off.

Our own processes and what they start may write into our cache and where they were told to, and open no socket of the
internet's families: serving and asking here go through a Unix socket.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.needs import skip_without

RUNTIME = [sys.executable, "-c", "from edge_runtime.cli.main import app; app(prog_name='edge-runtime')"]
EXPORT = [sys.executable, "-c", "from edge_export.cli import app; app(prog_name='edge-export')"]
SERVE_AND_ASK = """
import signal, subprocess, sys
bundle, address, *runtime = sys.argv[1:]
server = subprocess.Popen([*runtime, "serve", bundle, "--bind", address], stdout=subprocess.PIPE, text=True)
for line in server.stdout:
    if line.startswith("serving "):
        break
subprocess.run([*runtime, "ask", address, "hello", "--max-tokens", "3"], check=True)
server.send_signal(signal.SIGTERM)
sys.exit(server.wait())
"""
COMMANDS = ("ask", "serve", "export", "verify")
NOT_OURS = ("XDG_", "HF_", "ORT_", "TMPDIR")


@dataclass(frozen=True)
class Room:
    """A home and a folder for temporary files, both empty, and what the commands work with."""

    folder: Path
    checkpoint: Path
    bundle: Path

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def command(self, name: str) -> list[str]:
        if name == "serve":
            address = f"ipc://{self.folder}/socket"
            return [sys.executable, "-c", SERVE_AND_ASK, str(self.bundle), address, *RUNTIME]
        commands = {
            "ask": [*RUNTIME, "ask", str(self.bundle), "hello", "--max-tokens", "3"],
            "export": [*EXPORT, str(self.checkpoint), str(self.folder / "out")],
            "verify": [*EXPORT, "verify", str(self.folder / "copy"), "--source", str(self.checkpoint)],
        }
        return commands[name]

    def run(self, name: str, around: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
        """Run a command, inside another one if need be; without the variables that our tests run with."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith(NOT_OURS)}
        environment |= {"HOME": str(self.home), "TMPDIR": str(self.folder / "tmp")}
        done = subprocess.run(
            [*around, *self.command(name)], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done

    def left_behind(self) -> list[str]:
        """Files in the home and among the temporary ones."""
        folders = (self.home, self.folder / "tmp")
        return [str(path.relative_to(self.folder)) for folder in folders for path in folder.rglob("*")]


@pytest.fixture
def room(tiny_checkpoint: Path, tiny_bundle: Path, tmp_path: Path) -> Room:
    for name in ("home", "tmp"):
        (tmp_path / name).mkdir()
    shutil.copytree(tiny_bundle, tmp_path / "copy")
    return Room(tmp_path, tiny_checkpoint, tiny_bundle)


@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_is_left_in_a_fresh_home(room: Room, command: str) -> None:
    room.run(command)
    assert room.left_behind() == []


@pytest.fixture
def strace(tmp_path: Path) -> list[str]:
    """A command that follows another, with all it starts, and writes every socket it opens to `sockets`."""
    if shutil.which("strace") is None:
        skip_without("strace", "apt install strace")
    command = ["strace", "-f", "-qq", "-e", "trace=socket,connect", "-o", str(tmp_path / "sockets")]
    if subprocess.run([*command, "true"], capture_output=True, check=False).returncode != 0:
        skip_without("leave to trace processes", "a machine or container that allows ptrace")
    caller = [sys.executable, "-c", "import socket; socket.socket().connect_ex(('127.0.0.1', 9))"]
    subprocess.run([*command, *caller], check=True)
    assert internet_sockets(tmp_path) != []
    return command


def internet_sockets(folder: Path) -> list[str]:
    lines = (folder / "sockets").read_text().splitlines()
    return [line for line in lines if "AF_INET" in line or "AF_NETLINK" in line]


@pytest.mark.parametrize("command", COMMANDS)
def test_no_connection_is_tried(room: Room, strace: list[str], command: str) -> None:
    room.run(command, strace)
    assert internet_sockets(room.folder) == []


@pytest.mark.parametrize("command", ["serve", "export"])
def test_it_works_without_a_network(room: Room, command: str) -> None:
    unshare = ["unshare", "--map-root-user", "--net"]
    if shutil.which("unshare") is None or subprocess.run([*unshare, "true"], check=False).returncode != 0:
        skip_without("leave to make a network namespace", "a machine or container that allows user namespaces")
    room.run(command, unshare)


@pytest.mark.parametrize(("said", "heard"), [("0", "0"), ("1", "1"), (None, "1")])
def test_a_user_may_say_otherwise(tmp_path: Path, said: str | None, heard: str) -> None:
    """Instead of the real library stands one that prints what it is told, so that nobody is told anything here."""
    (tmp_path / "onnxruntime.py").write_text("import os, sys; sys.exit(os.environ['ORT_DISABLE_TELEMETRY'])")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ORT_")}
    environment |= {"PYTHONPATH": str(tmp_path)} | ({} if said is None else {"ORT_DISABLE_TELEMETRY": said})
    for module in ("edge_runtime.model.graph", "edge_export.verify.ort"):
        program = [sys.executable, "-c", f"import {module}"]
        done = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
        assert done.stderr.strip() == heard
