"""One contender in its own process: takes requests as JSON lines on stdin, answers as JSON lines on stdout.

Runs with the Python of the contender's environment, so it imports nothing but the standard library and the adapter.
The first line it says is `{"load_s": ...}`; after each request, `{"result": ...}`, `{"cannot": ...}` or
`{"error": ...}`; at end of input `{"peak_bytes": ...}`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import Any, TextIO

from benchmarks.peers.adapter import CannotRun, ChatModel, ImageResult, Model, RunSettings, Said, TextResult, TurnResult


def main() -> None:
    """Prepare a model, or serve requests about one; `chat`: turns of a loop."""
    arguments = _parse_arguments()
    answers = _claim_stdout()
    adapter = import_module(f"benchmarks.peers.adapters.{arguments.adapter}")
    if arguments.verb == "prepare":
        facts = adapter.prepare(arguments.checkpoint, arguments.model, json.loads(arguments.options))
        _say(answers, {"facts": facts})
        return
    settings = RunSettings(arguments.threads, arguments.max_context, arguments.log)
    started = time.perf_counter()
    load = adapter.load_chat if arguments.verb == "chat" else adapter.load
    model: Model | ChatModel = load(arguments.model, settings)
    _say(answers, {"load_s": time.perf_counter() - started})
    try:
        for line in sys.stdin:
            _say(answers, _answer(model, json.loads(line)))
        _say(answers, {"peak_bytes": sum(map(peak_bytes, model.process_ids()))})
    finally:
        model.close()


def _answer(model: Any, request: dict[str, Any]) -> dict[str, object]:
    try:
        return {"result": dataclasses.asdict(_RUN[request["kind"]](model, request))}
    except CannotRun as error:
        return {"cannot": str(error)}
    except Exception as error:  # noqa: BLE001 - whatever a peer raises is a result, not our failure
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"}


def _run_turn(model: ChatModel, request: dict[str, Any]) -> TurnResult:
    history = [Said(said["role"], said["text"], tuple(said["images"])) for said in request["history"]]
    options = {name: request[name] for name in ("ignore_eos", "mode")}
    return model.run_turn(history, request["max_tokens"], **options)


_RUN: dict[str, Callable[[Any, dict[str, Any]], TextResult | ImageResult | TurnResult]] = {
    "text": lambda model, request: model.run_text(request["prompt"], request["max_tokens"]),
    "image": lambda model, request: model.run_image(Path(request["image"]), request["prompt"]),
    "turn": _run_turn,
}


def peak_bytes(process_id: int) -> int:
    """High-water mark of a process's resident memory (Linux)."""
    return vm_high_water(Path(f"/proc/{process_id}/status").read_text().splitlines())


def vm_high_water(status: Iterable[str]) -> int:
    """Bytes of the VmHWM line of `/proc/<pid>/status`."""
    for line in status:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise ValueError("no VmHWM line; is the process a zombie?")


def _claim_stdout() -> TextIO:
    """Our own handle on stdout; what libraries print goes to stderr from here on."""
    ours = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return ours


def _say(answers: TextIO, message: dict[str, Any]) -> None:
    answers.write(json.dumps(message) + "\n")
    answers.flush()


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="One contender of the peer benchmark (started by benchmarks.peers).")
    parser.add_argument("verb", choices=("prepare", "run", "chat"))
    parser.add_argument("adapter")
    parser.add_argument("model", type=Path)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--options", default="{}", help="JSON object for prepare")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--max-context", type=int)
    parser.add_argument("--log", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
