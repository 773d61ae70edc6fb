"""`python -m benchmarks.peers.loop --work DIR`: an agent's loop, turn after turn, the whole history sent each time.

Every turn brings a screenshot or asks again about the one before (`scenes.py` says in which order); its answer joins
the history. Told per turn and contender: seconds to the first token and to the end, tokens of the prompt that were
computed, seconds of vision and bytes sent where the contender tells them. One JSON line at the end, also in
DIR/loop-SCENE.json; `python -m benchmarks.peers.plot` draws it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.adapter import Mode, Said
from benchmarks.peers.contenders import find
from benchmarks.peers.environment import python_of
from benchmarks.peers.measure import LOAD_TIMEOUT_S, Outcome, Workplace, prepare, read_through
from benchmarks.peers.process import Worker, WorkerFailed
from benchmarks.peers.scenes import Desktop, PocketScreens, Scene, turns
from benchmarks.peers.setting import machine, random_checkpoint, say

TURN_TIMEOUT_S = 3600
POCKET = Path(__file__).resolve().parents[2] / "pocket" / "weights"
CONTENDERS: dict[str, tuple[str, Mode]] = {
    "edge": ("edge", "history"),
    "edge, session": ("edge", "session"),
    "edge, nothing kept": ("edge", "forgetful"),
    "llama.cpp Q4_0": ("llama.cpp Q4_0", "history"),
    "llama.cpp Q4_0, nothing kept": ("llama.cpp Q4_0", "forgetful"),
    "OpenVINO GenAI": ("OpenVINO GenAI", "history"),
}
"""Name -> the contender of `contenders.py`, and how it is asked."""
NOTES = {
    "edge, session": "in its unchanged turns the screen is left out, and asked about where it is (`skip_unchanged`)"
}
"""Below the tables, of those that are in them."""


@dataclass(frozen=True, slots=True)
class Loop:
    """What is done by everybody."""

    scene: Scene
    num_turns: int
    threads: int
    max_context: int


def main() -> None:
    """Run the loop with every contender in turn; progress goes to stderr, the result to stdout."""
    arguments = _parse_arguments()
    place = Workplace(arguments.work.resolve())
    is_pocket = arguments.scene == "pocket"
    given = POCKET if is_pocket else arguments.checkpoint
    checkpoint = given or random_checkpoint(place, arguments.size)
    width, height = (int(side) for side in arguments.screen.split("x"))
    pictures = place.folder("images")
    scene: Scene = PocketScreens(pictures) if is_pocket else Desktop(pictures, width, height, arguments.answer_tokens)
    loop = Loop(scene, arguments.turns, arguments.threads, arguments.max_context)
    result: dict[str, Any] = machine() | {
        "scene": "pocket" if is_pocket else f"{arguments.screen}, {arguments.size}",
        "threads": arguments.threads,
        "kinds": [turn.kind for turn in turns(arguments.turns)],
        "contenders": {},
    }
    for name in arguments.contenders:
        say(name)
        result["contenders"][name] = run(name, loop, checkpoint.resolve(), place)
        (place.root / f"loop-{arguments.scene}.json").write_text(json.dumps(result))
    sys.stdout.write(f"{markdown(result)}\n\n{json.dumps(result)}\n")


def run(name: str, loop: Loop, checkpoint: Path, place: Workplace) -> dict[str, Any]:
    """All turns of one contender: `turns`, `peak_bytes`, and under `trouble` why some are missing."""
    known_as, mode = CONTENDERS[name]
    (contender,) = find([known_as])
    outcome = Outcome(contender)
    told: dict[str, Any] = {"facts": {}, "turns": []}
    prepare(outcome, checkpoint, place)
    if outcome.troubles:
        return told | {"trouble": outcome.troubles[0]}
    model = place.model(contender)
    read_through(model)
    arguments = ["chat", contender.adapter, str(model), "--threads", str(loop.threads)]
    arguments += ["--max-context", str(loop.max_context), "--log", str(place.log(contender, "child"))]
    python = python_of(contender, place.folder("environments"))
    told["facts"] = outcome.facts
    try:
        with Worker(python, arguments, place.log(contender, "chat")) as worker:
            worker.read(LOAD_TIMEOUT_S)
            for turn in take_turns(worker, loop, mode):
                say(f"  {turn['kind']}: {turn['first_token_s']:.3f} s to the first token, {turn['total_s']:.3f} in all")
                told["turns"].append(turn)
            told["peak_bytes"] = worker.finish(LOAD_TIMEOUT_S)["peak_bytes"]
    except WorkerFailed as error:
        told["trouble"] = str(error)
    return told


def take_turns(worker: Worker, loop: Loop, mode: Mode) -> Iterator[dict[str, Any]]:
    """Ask turn after turn; yields what is known of each. Raises `WorkerFailed`."""
    scene = loop.scene
    history = [Said("system", scene.system)] if scene.system else []
    for index, turn in enumerate(turns(loop.num_turns)):
        if turn.kind == "again":
            history.pop()  # its answer: the request is the one before, as it was
        else:
            picture = (str(scene.screen(turn.number, turn.changed)),) if turn.brings_picture else ()
            history.append(Said("user", scene.question(index, turn.number, turn.changed), picture))
        request = {
            "kind": "turn",
            "history": [asdict(said) for said in history],
            "max_tokens": scene.answer_tokens,
            "ignore_eos": scene.fixed_answers,
            "mode": mode,
        }
        answer = worker.ask(request, TURN_TIMEOUT_S)
        if "result" not in answer:
            raise WorkerFailed(f"turn {index + 1}: {answer.get('cannot') or answer.get('error')}")
        result = answer["result"]
        text = scene.stand_in(index) if scene.fixed_answers else result.pop("text")
        history.append(Said("assistant", text))
        yield {"kind": turn.kind} | {key: value for key, value in result.items() if key != "text"}


METRICS = {
    "first_token_s": "seconds to the first token",
    "total_s": "seconds in all",
    "computed_tokens": "tokens of the prompt that were computed",
    "prompt_tokens": "tokens of the prompt",
    "vision_s": "seconds of vision",
    "sent_bytes": "bytes sent",
}


def markdown(result: dict[str, Any]) -> str:
    """A table per metric that anybody tells, with a row per turn and a column per contender."""
    told = {name: one["turns"] for name, one in result["contenders"].items()}
    lines = []
    for metric, title in METRICS.items():
        table = {name: [turn.get(metric) for turn in of] for name, of in told.items()}
        if not any(value is not None for column in table.values() for value in column):
            continue
        lines += [f"| {title} | | " + " | ".join(table) + " |", "|---:|---|" + "---:|" * len(table)]
        for index, kind in enumerate(result["kinds"]):
            cells = [_number(column[index]) if index < len(column) else "-" for column in table.values()]
            lines.append(f"| {index + 1} | {kind} | " + " | ".join(cells) + " |")
        lines.append("")
    notes = [f"- {name}: {note}" for name, note in NOTES.items() if name in told]
    troubles = {name: one["trouble"] for name, one in result["contenders"].items() if "trouble" in one}
    return "\n".join([*lines, *notes, *(f"- {name}: **{trouble}**" for name, trouble in troubles.items())])


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.loop", description=__doc__)
    names = list(CONTENDERS)
    parser.add_argument(
        "--work", type=Path, required=True, help="as of benchmarks.peers; a folder of its own for pocket"
    )
    parser.add_argument("--scene", choices=("desktop", "pocket"), default="desktop", help="pocket: its own screens")
    parser.add_argument("--checkpoint", type=Path, help="use this Qwen3-VL checkpoint, not a random one")
    parser.add_argument("--size", default="2b", help="size of the random checkpoint: 2b, 4b, 8b or tiny")
    parser.add_argument("--contenders", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--screen", default="1280x720", help="size of a desktop")
    parser.add_argument("--answer-tokens", type=int, default=40, help="length of an answer about a desktop")
    parser.add_argument("--max-context", type=int, default=8192)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of every contender")
    return parser.parse_args()


if __name__ == "__main__":
    main()
