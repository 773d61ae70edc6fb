"""`python -m benchmarks.saving BUNDLE`: what it takes to save and restore a long chat, beside computing it.

A server answers one question about a screenshot and a long text, its session is saved over the socket, and a second
server that has seen nothing restores it and answers a follow-up. The file is in the page cache when it is read, as
after a restart of the server alone. One JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_runtime.bench.questions import digits, screenshot
from edge_runtime.devices.memory import MemoryRequest
from edge_runtime.engine.load import PlannedBundle
from edge_runtime.serving.client import Client, Session
from edge_runtime.serving.client_core import Timeouts
from edge_runtime.serving.model_info import model_info
from edge_runtime.serving.server import Server
from edge_runtime.serving.settings import ServerSettings

PATIENT = Timeouts(first_token_s=3600.0, idle_s=3600.0)


def main() -> None:
    """Ask, save, restore, ask on."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.saving", description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--text-tokens", type=int, default=3080)
    parser.add_argument("--screen", default="1280x720")
    parser.add_argument("--answer-tokens", type=int, default=16)
    parser.add_argument("--folder", type=Path, help="where the file goes; else the system's temporary one")
    arguments = parser.parse_args()
    width, height = (int(side) for side in arguments.screen.split("x"))
    options = {"max_tokens": arguments.answer_tokens, "ignore_eos": True}
    memory = MemoryRequest(max_chats=1, context_tokens=2 * arguments.text_tokens + 2048)
    planned = PlannedBundle.open(arguments.bundle, "auto", memory)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        path, restored = Path(folder) / "chat", list[Session]()
        with serving(planned, folder) as client:
            session = client.session()
            first = session.ask(digits(arguments.text_tokens, 1), images=screenshot(width, height, 1), **options)
            save_s = seconds(lambda: session.save(path))
            unbroken = session.ask(digits(20, 2), **options)
        with serving(planned, folder) as client:
            restore_s = seconds(lambda: restored.append(client.restore(path)))
            after = restored[0].ask(digits(20, 2), **options)
        computed_s = first.timings.first_token_ms / 1e3
        facts = {
            "kv_dtype": planned.plan.kv_dtype,
            "prompt_tokens": first.timings.prompt_tokens,
            "first_token_s": computed_s,
            "prefill_s": first.timings.prefill_ms / 1e3,
            "vision_s": first.timings.vision_ms / 1e3,
            "file_bytes": path.stat().st_size,
            "save_s": save_s,
            "restore_s": restore_s,
            "restore_per_prefill": restore_s / (first.timings.prefill_ms / 1e3),
            "cached_tokens": after.timings.cached_tokens,
            "follow_up_first_token_s": after.timings.first_token_ms / 1e3,
            "unbroken_first_token_s": unbroken.timings.first_token_ms / 1e3,
            "same_tokens": after.token_ids == unbroken.token_ids,
            "load_average": os.getloadavg()[0],
        }
    sys.stdout.write(json.dumps(facts) + "\n")


def seconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    started_s = time.perf_counter()
    work()
    return time.perf_counter() - started_s


@contextmanager
def serving(planned: PlannedBundle, folder: str) -> Iterator[Client]:
    """A client of a server that has seen nothing yet."""
    server = Server(ServerSettings(bind=f"ipc://{folder}/socket"))
    engine = planned.load()
    thread = threading.Thread(target=server.run, args=(engine, model_info(planned)))
    thread.start()
    try:
        with Client(server.address, timeouts=PATIENT) as client:
            yield client
    finally:
        server.stop()
        thread.join()


if __name__ == "__main__":
    main()
