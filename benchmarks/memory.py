"""`python -m benchmarks.memory BUNDLE`: what a server under many distinct chats takes, beside what was planned for it.

The server runs in a process of its own, with the plan of the budget given, so that its caches fill up and give way.
Clients come and go; every chat is a session that stays open, with pictures, words and turns that no other has.
Measured are the high-water marks of resident memory of the server and of the process that decodes its pictures, mapped
weights included, and their proportional share now and then, which shows whether something grows. One JSON line at the
end.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import cv2
import psutil

from benchmarks.peers.worker import peak_bytes
from edge_runtime.bench.questions import digits, screenshot
from edge_runtime.devices.memory import DECODING_PROCESS_BYTES, MemoryRequest, format_bytes
from edge_runtime.engine.load import PlannedBundle
from edge_runtime.errors import TooManySessions
from edge_runtime.serving.client import Client
from edge_runtime.serving.client_core import Timeouts

SHARES = 20
"""How often the proportional share is read."""
PATIENT = Timeouts(first_token_s=3600.0, idle_s=3600.0)


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked."""

    num_chats: int
    num_clients: int
    num_turns: int
    width: int
    height: int
    answer_tokens: int


@dataclass(slots=True)
class Measured:
    """What was seen, in bytes."""

    loaded: int = 0
    """Resident in the server, before the first chat."""
    server_peak: int = 0
    decoding_peak: int = 0
    shares: list[int] = field(default_factory=list)
    """Proportional share of both processes, as chats went by."""
    closed_sessions: int = 0
    """Those that had to go, because the server keeps only so many bytes of pictures."""
    failed: list[str] = field(default_factory=list)


def main() -> None:
    """Serve, ask, and tell."""
    arguments = _parse_arguments()
    budget = arguments.budget_mib and arguments.budget_mib * 2**20
    memory = MemoryRequest(
        budget_bytes=budget,
        max_chats=arguments.max_chats,
        context_tokens=arguments.context,
        max_pixels=arguments.max_pixels,
    )
    planned = PlannedBundle.open(arguments.bundle, "auto", memory)
    if arguments.serve:
        _serve(planned)
        return
    width, height = (int(side) for side in arguments.screen.split("x"))
    load = Load(arguments.chats, arguments.clients, arguments.turns, width, height, arguments.answer_tokens)
    measured = measure(sys.argv[1:], load)
    for row in rows(planned, measured):
        sys.stdout.write("| " + " | ".join(row) + " |\n")
    facts = {name: getattr(measured, name) for name in Measured.__slots__}
    sys.stdout.write(json.dumps({"plan": dict_of_plan(planned), "measured": facts}) + "\n")


def measure(arguments: Sequence[str], load: Load) -> Measured:
    """Start a server with these arguments of ours, put it under load, stop it."""
    command = [sys.executable, "-m", "benchmarks.memory", "--serve", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            server, measured = psutil.Process(process.pid), Measured()
            measured.loaded = server.memory_info().rss
            _ask_all(address, load, server, measured)
            measured.server_peak = peak_bytes(server.pid)
            measured.decoding_peak = sum(peak_bytes(child.pid) for child in server.children(recursive=True))
        finally:
            process.terminate()
    return measured


def rows(planned: PlannedBundle, measured: Measured) -> list[tuple[str, str, str, str]]:
    """(what, planned, measured, measured as a share of planned), as a table."""
    plan = planned.plan
    decoding = plan.decoding_bytes + DECODING_PROCESS_BYTES
    pairs = (
        ("once loaded", plan.loaded_bytes, measured.loaded),
        ("grown since", plan.total_bytes - decoding - plan.loaded_bytes, measured.server_peak - measured.loaded),
        ("server at its peak", plan.total_bytes - decoding, measured.server_peak),
        ("decoding process at its peak", decoding, measured.decoding_peak),
        ("both", plan.total_bytes, measured.server_peak + measured.decoding_peak),
    )
    table = [("", "planned", "measured", "share"), ("---", "---:", "---:", "---:")]
    for what, wanted, seen in pairs:
        table.append((what, format_bytes(wanted), format_bytes(seen), f"{100 * seen / wanted:.0f} %"))
    return table


def dict_of_plan(planned: PlannedBundle) -> dict[str, Any]:
    """The plan for the JSON line."""
    plan = planned.plan
    return {name: getattr(plan, name) for name in plan.__slots__} | {"total_bytes": plan.total_bytes}


def _serve(planned: PlannedBundle) -> None:
    """Until SIGTERM; the address is the one line of stdout."""
    import signal  # noqa: PLC0415

    from edge_runtime.serving.model_info import model_info  # noqa: PLC0415
    from edge_runtime.serving.server import Server  # noqa: PLC0415
    from edge_runtime.serving.settings import ServerSettings  # noqa: PLC0415

    server = Server(ServerSettings(bind="tcp://127.0.0.1:*"))
    signal.signal(signal.SIGTERM, lambda *_: server.stop())
    engine = planned.load()
    sys.stdout.write(server.address + "\n")
    sys.stdout.flush()
    server.run(engine, model_info(planned))


class _Sessions:
    """Sessions that are open, oldest first; where the server takes no more, the oldest are closed. For any thread."""

    def __init__(self) -> None:
        self.num_closed = 0
        self._lock = threading.Lock()
        self._ids: deque[str] = deque()

    def keep(self, session_id: str) -> None:
        with self._lock:
            self._ids.append(session_id)

    def make_room(self, client: Client) -> None:
        with self._lock:
            oldest = self._ids.popleft()
            self.num_closed += 1
        client.session(oldest).close()


def _ask_all(address: str, load: Load, server: psutil.Process, measured: Measured) -> None:
    """All chats, `num_clients` at a time, each by a client of its own."""
    waiting: SimpleQueue[int] = SimpleQueue()
    for number in range(load.num_chats):
        waiting.put(number)
    sessions, lock, every = _Sessions(), threading.Lock(), max(1, load.num_chats // SHARES)

    def work() -> None:
        while True:
            try:
                number = waiting.get_nowait()
            except Empty:
                return
            try:
                _chat(address, load, number, sessions)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is counted and the others go on
                measured.failed.append(f"chat {number}: {type(error).__name__}: {error}")
            with lock:
                if number % every == every - 1:
                    family = [server, *server.children(recursive=True)]
                    measured.shares.append(sum(one.memory_full_info().pss for one in family))
                    sys.stderr.write(f"{number + 1} chats: {format_bytes(measured.shares[-1])}\n")

    threads = [threading.Thread(target=work) for _ in range(load.num_clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    measured.closed_sessions = sessions.num_closed


def _chat(address: str, load: Load, number: int, sessions: _Sessions) -> None:
    """A session that stays open when its client leaves. Every other picture comes as pixels, the others as files."""
    with Client(address, timeouts=PATIENT) as client:
        session = _retried(client.session, client, sessions)
        for turn in range(load.num_turns):
            seed = number * load.num_turns + turn
            pixels = screenshot(load.width, load.height, seed)
            picture = pixels if seed % 2 else cv2.imencode(".png", pixels)[1].tobytes()
            ask = partial(session.ask, digits(20, seed), images=picture, max_tokens=load.answer_tokens, ignore_eos=True)
            _retried(ask, client, sessions)
        sessions.keep(session.session_id)


_Result = TypeVar("_Result")


def _retried(call: Callable[[], _Result], client: Client, sessions: _Sessions) -> _Result:
    """What `call` gives, once there is room for it."""
    try:
        return call()
    except TooManySessions:
        sessions.make_room(client)
        return _retried(call, client, sessions)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--chats", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=6, help="at the same time")
    parser.add_argument("--turns", type=int, default=3, help="of a chat; each has a picture")
    parser.add_argument("--screen", default="384x256")
    parser.add_argument("--answer-tokens", type=int, default=8)
    parser.add_argument("--budget-mib", type=int, help="of the plan; else the machine's")
    parser.add_argument("--max-chats", type=int)
    parser.add_argument("--context", type=int)
    parser.add_argument("--max-pixels", type=int)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
