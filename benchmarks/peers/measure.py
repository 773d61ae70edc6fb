"""Runs the contenders in turn, round after round, and collects what they say. Knows no peer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.peers.cases import MAX_CONTEXT, WARM_UP, Case, TextCase
from benchmarks.peers.contenders import Contender
from benchmarks.peers.environment import NotInstalled, python_of
from benchmarks.peers.process import Worker, WorkerFailed

PREPARE_TIMEOUT_S = 3600
LOAD_TIMEOUT_S = 600
CASE_TIMEOUT_S = 1200

Say = Callable[[str], None]


@dataclass(slots=True)
class Outcome:
    """What is known about one contender."""

    contender: Contender
    facts: dict[str, str] = field(default_factory=dict)
    samples: dict[str, list[float]] = field(default_factory=dict)
    """By metric; one value per round."""
    troubles: list[str] = field(default_factory=list)
    """Why values are missing, in words; each once."""

    def add(self, metric: str, value: float) -> None:
        """One more value."""
        self.samples.setdefault(metric, []).append(value)

    def complain(self, trouble: str) -> None:
        """Remember why something is missing."""
        if trouble not in self.troubles:
            self.troubles.append(trouble)


@dataclass(frozen=True, slots=True)
class Workplace:
    """The folders of one benchmark."""

    root: Path

    def folder(self, name: str) -> Path:
        """A folder of it, made if need be."""
        path = self.root / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def model(self, contender: Contender) -> Path:
        """Where a contender's prepared model lies, once it does."""
        return self.folder("models") / contender.slug

    def log(self, contender: Contender, what: str) -> Path:
        """A log file."""
        return self.folder("logs") / f"{contender.slug}-{what}.log"


def prepare(outcome: Outcome, checkpoint: Path, place: Workplace) -> None:
    """Install a contender and prepare the checkpoint for it, unless that is done; trouble goes into `outcome`."""
    contender, model = outcome.contender, place.model(outcome.contender)
    try:
        python = python_of(contender, place.folder("environments"))
        facts_file = model / "facts.json"
        if not facts_file.exists():
            unfinished = model.with_name(f"{model.name}.unfinished")  # a name may have dots
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            arguments = ["prepare", contender.adapter, str(unfinished), "--checkpoint", str(checkpoint)]
            arguments += ["--options", json.dumps(dict(contender.options))]
            with Worker(python, arguments, place.log(contender, "prepare")) as worker:
                facts = worker.read(PREPARE_TIMEOUT_S)["facts"]
            (unfinished / "facts.json").write_text(json.dumps(facts))
            unfinished.rename(model)
        outcome.facts = json.loads(facts_file.read_text())
    except (NotInstalled, WorkerFailed) as error:
        outcome.complain(f"could not be prepared: {error}")


def run_round(outcome: Outcome, cases: Sequence[Case], seed: int, threads: int, place: Workplace) -> None:
    """Start the contender, warm it up, run every case once; values and trouble go into `outcome`."""
    contender, model = outcome.contender, place.model(outcome.contender)
    read_through(model)
    arguments = ["run", contender.adapter, str(model), "--threads", str(threads), "--max-context", str(MAX_CONTEXT)]
    arguments += ["--log", str(place.log(contender, "child"))]
    python = python_of(contender, place.folder("environments"))
    try:
        with Worker(python, arguments, place.log(contender, "run")) as worker:
            outcome.add("load s", worker.read(LOAD_TIMEOUT_S)["load_s"])
            for case in WARM_UP:
                worker.ask(case.request(seed, place.folder("images")), CASE_TIMEOUT_S)
            for case in cases:
                answer = worker.ask(case.request(seed, place.folder("images")), CASE_TIMEOUT_S)
                _record(outcome, case, answer)
            outcome.add("peak memory GB", worker.finish(LOAD_TIMEOUT_S)["peak_bytes"] / 1e9)
    except WorkerFailed as error:
        outcome.complain(str(error))


def _record(outcome: Outcome, case: Case, answer: dict[str, Any]) -> None:
    result = answer.get("result")
    if result is None:
        outcome.complain(f"{case.name}: {answer.get('cannot') or answer.get('error')}")
        return
    outcome.facts[f"{case.name} tokens"] = str(result["prompt_tokens"])
    if isinstance(case, TextCase):
        outcome.add(f"prefill {case.prompt_tokens} tok/s", result["prompt_tokens"] / result["prefill_s"])
        if result["decode_s"] > 0:
            outcome.add(f"decode at {case.prompt_tokens} tok/s", result["decode_tokens"] / result["decode_s"])
    else:
        outcome.add(f"vision {case.width}x{case.height} s", result["vision_s"])
        outcome.add(f"first token {case.width}x{case.height} s", result["first_token_s"])


def read_through(folder: Path) -> None:
    """Bring a model's files into the page cache, so that load times compare programs and not what ran before."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb", buffering=0) as file:
                while file.read(1 << 24):
                    pass
