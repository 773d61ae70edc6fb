"""`python -m benchmarks.grammars BUNDLE`: what a grammar costs per token, and what hostile ones cost others.

First one chat, in one process: its tokens with a JSON schema of long strings (so that nothing is forced), and without,
in turn. Masks are those of `--tokenizer`, a `tokenizer.json`, if one is given: random checkpoints have a small one.
Then a server: one client's chat decodes while another sends grammars that want too much; told are the median and the
95th percentile of milliseconds between tokens, with and without the other. One JSON line at the end.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime.devices.memory import MemoryRequest
from edge_runtime.engine.engine import Engine
from edge_runtime.engine.events import Delta
from edge_runtime.engine.grammar import Grammars
from edge_runtime.engine.load import PlannedBundle
from edge_runtime.engine.request import GenerationRequest
from edge_runtime.errors import EdgeError
from edge_runtime.model.conversation import Message
from edge_runtime.model.tokenizer import Tokenizer
from edge_runtime.serving.client import Client
from edge_runtime.serving.client_core import Timeouts

STRING = json.dumps({"type": "array", "items": {"type": "string", "minLength": 4000}, "minItems": 4})
PATIENT = Timeouts(first_token_s=600.0, idle_s=600.0)


def main() -> None:
    """Measure, tell."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.grammars", description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    facts = {
        "per_token": per_token(arguments.bundle, arguments.tokenizer, arguments.tokens, arguments.rounds),
        "beside_hostile_ones": beside_hostile_ones(arguments.bundle, arguments.tokens * arguments.rounds),
    }
    sys.stdout.write(json.dumps(facts) + "\n")


def per_token(bundle: Path, tokenizer: Path | None, num_tokens: int, rounds: int) -> dict[str, Any]:
    """Milliseconds a token with and without a grammar, medians of `rounds`, and of the pairs' differences."""
    engine = PlannedBundle.open(bundle, "auto", MemoryRequest(max_chats=1, context_tokens=2048)).load()
    if tokenizer is not None:
        text = tokenizer.read_text(encoding="utf-8")
        ends = Tokenizer(tokenizer).pair_of_added("<|endoftext|>", "<|im_end|>")
        engine._runner.grammars = Grammars(lambda: text, ends or ())  # type: ignore[misc]
    times: dict[str, list[float]] = {"": [], STRING: []}
    for number in range(rounds + 1):
        for schema, taken in times.items():
            taken.append(_decode_ms(engine, num_tokens, schema, number))
    free, bound = np.array(times[""][1:]), np.array(times[STRING][1:])  # the first builds llguidance's tables
    return {
        "free_ms": round(float(np.median(free)), 3),
        "bound_ms": round(float(np.median(bound)), 3),
        "share": round(float(np.median((bound - free) / free)), 4),
    }


def _decode_ms(engine: Engine, num_tokens: int, schema: str, number: int) -> float:
    fields = {"max_tokens": num_tokens, "schema": schema, "ignore_eos": not schema, "speculation": False}
    *_, answer = engine.generate(GenerationRequest("r", (Message("user", f"{number} tell me"),), **fields))
    return float(answer.timings.decode_ms) / (answer.timings.output_tokens - 1)


def beside_hostile_ones(bundle: Path, num_tokens: int) -> dict[str, Any]:
    """Milliseconds between tokens of a chat over the socket, alone and while another client sends hostile grammars."""
    with tempfile.TemporaryDirectory() as folder:
        address = f"ipc://{folder}/sock"
        command = [str(Path(sys.executable).with_name("edge-runtime")), "serve", str(bundle), "--bind", address]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
            try:
                return _beside(address, num_tokens)
            finally:
                server.terminate()


def _beside(address: str, num_tokens: int) -> dict[str, Any]:
    with Client(address, timeouts=PATIENT) as client:
        _wait_for(client)
        _gaps_ms(client, 8)
        alone = _gaps_ms(client, num_tokens)
        over, sent = threading.Event(), [0]
        other = threading.Thread(target=_send_hostile, args=(address, over, sent))
        other.start()
        beside = _gaps_ms(client, num_tokens)
        over.set()
        other.join()
    return {
        name: {"p50": round(float(np.median(gaps)), 2), "p95": round(float(np.percentile(gaps, 95)), 2)}
        for name, gaps in (("alone_ms", alone), ("beside_ms", beside))
    } | {"hostile_requests": sent[0]}


def _wait_for(client: Client) -> None:
    for _ in range(60):
        with suppress(EdgeError):
            client.info()
            return
        time.sleep(0.2)
    raise SystemExit("the server did not start")


def _gaps_ms(client: Client, num_tokens: int) -> list[float]:
    """Between the deltas of an answer."""
    events = client.generate("tell me more", max_tokens=num_tokens, ignore_eos=True, speculation=False)
    return list(1e3 * np.diff([time.perf_counter() for event in events if isinstance(event, Delta)]))


def _send_hostile(address: str, over: threading.Event, sent: list[int]) -> None:
    with Client(address, timeouts=PATIENT) as client:
        while not over.is_set():
            for fields in hostile():
                with suppress(EdgeError):
                    client.generate("hello", max_tokens=16, **fields).result  # noqa: B018 - it waits for the end
                sent[0] += 1
                if over.is_set():
                    return


def hostile() -> list[dict[str, Any]]:
    """Grammars that are refused, or take all the work that one may."""
    return [
        {"schema": json.dumps({"$ref": "#"})},
        {"schema": "[" * 60_000},
        {"schema": json.dumps({"properties": {f"p{i}": {"pattern": f"(a|b)*{i}(a|b)*"} for i in range(999)}})},
        {"schema": json.dumps({"anyOf": [{"required": [f"p{i}"]} for i in range(2000)]})},
        {"regex": r"(a+)+(b+)+(a|aa)+$"},
        {"regex": r"(x{1000}y?){1000}"},
        {"regex": r"(.*a){20}.{500}"},
        {"lark": 'start: start start | "a" | "a" start'},
        {"lark": "start: " + " | ".join(f"/a{{{i}}}b*/" for i in range(1, 900))},
        {"choice": tuple(f"{'y' * (i % 40)}{i}" for i in range(1024))},
    ]


if __name__ == "__main__":
    main()
