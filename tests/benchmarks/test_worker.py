"""The worker and its parent, over a made-up contender: answers, failures, silence and death."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.peers.cases import ImageCase, TextCase
from benchmarks.peers.contenders import CONTENDERS, Contender, find
from benchmarks.peers.environment import NotInstalled, python_of
from benchmarks.peers.measure import Outcome, Workplace, prepare, run_round
from benchmarks.peers.process import Worker, WorkerFailed
from benchmarks.peers.worker import vm_high_water

FAKE = """
import os, sys, time
from benchmarks.peers.adapter import CannotRun, ImageResult, TextResult

def prepare(checkpoint, out, options):
    print("noise on stdout")
    if options.get("fail"):
        raise RuntimeError("no such operator")
    (out / "model").write_text(str(checkpoint))
    return {"version": "1"}

def load(model, settings):
    assert (model / "model").exists()
    return Fake()

class Fake:
    def run_text(self, prompt, max_tokens):
        print("noise on stdout")
        if len(prompt) == 13:
            raise ValueError("unlucky")
        if len(prompt) == 17:
            os._exit(7)
        if len(prompt) == 19:
            time.sleep(3600)
        return TextResult(len(prompt), 0.5, max_tokens - 1, 0.25)
    def run_image(self, image, prompt):
        raise CannotRun("blind")
    def process_ids(self):
        return (os.getpid(),)
    def close(self):
        pass
"""


@pytest.fixture
def contender(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Contender:
    """A contender whose adapter lies outside the repository, put into the adapters' package by its search path."""
    folder = tmp_path / "adapters"
    folder.mkdir()
    (folder / "fake.py").write_text(FAKE)
    (tmp_path / "sitecustomize.py").write_text(
        f"import benchmarks.peers.adapters as adapters\nadapters.__path__.append({str(folder)!r})\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return Contender("Fake One", "fake", None)


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path / "work")


def prepared(contender: Contender, place: Workplace) -> Outcome:
    outcome = Outcome(contender)
    prepare(outcome, Path("checkpoint"), place)
    return outcome


def test_a_round_collects_values_and_troubles(contender: Contender, place: Workplace) -> None:
    outcome = prepared(contender, place)
    assert outcome.facts == {"version": "1"}
    run_round(outcome, (TextCase(20, 4), TextCase(13, 4), ImageCase(64, 64)), seed=1, threads=1, place=place)
    assert outcome.samples["prefill 20 tok/s"] == [40.0]
    assert outcome.samples["decode at 20 tok/s"] == [16.0]
    assert outcome.samples["load s"][0] > 0
    assert outcome.samples["peak memory GB"][0] > 0
    assert outcome.troubles == ["text 13: ValueError: unlucky", "image 64x64: blind"]


def test_a_dead_contender_is_a_trouble_and_keeps_what_it_gave(contender: Contender, place: Workplace) -> None:
    outcome = prepared(contender, place)
    run_round(outcome, (TextCase(20, 4), TextCase(17, 4), TextCase(21, 4)), seed=1, threads=1, place=place)
    assert "prefill 20 tok/s" in outcome.samples
    assert "prefill 21 tok/s" not in outcome.samples
    assert len(outcome.troubles) == 1
    assert "ended with status 7" in outcome.troubles[0]


def test_what_cannot_be_prepared_says_why(contender: Contender, place: Workplace) -> None:
    failing = Contender(contender.name, "fake", None, options={"fail": "yes"})
    outcome = prepared(failing, place)
    assert "no such operator" in outcome.troubles[0]
    assert not place.model(failing).exists()


def test_preparing_happens_once(contender: Contender, place: Workplace) -> None:
    prepared(contender, place)
    again = Outcome(contender)
    prepare(again, Path("another checkpoint"), place)
    assert (place.model(contender) / "model").read_text() == "checkpoint"
    assert again.facts == {"version": "1"}


def test_silence_has_an_end(contender: Contender, place: Workplace) -> None:
    prepared(contender, place)
    arguments = ["run", "fake", str(place.model(contender)), "--threads", "1", "--max-context", "64"]
    with Worker(Path(sys.executable), [*arguments, "--log", "x"], place.log(contender, "run")) as worker:
        assert worker.read(60)["load_s"] >= 0
        with pytest.raises(WorkerFailed, match="said nothing"):
            worker.ask({"kind": "text", "prompt": "1" * 19, "max_tokens": 2}, timeout_s=0.1)


def test_pip_failure_is_reported(place: Workplace) -> None:
    """No index is asked: the requirement is a path that is not there."""
    missing = Contender("Missing", "fake", "missing", (str(place.root / "nothing.whl"),))
    with pytest.raises(NotInstalled, match=r"nothing\.whl"):
        python_of(missing, place.folder("environments"))


def test_contenders_have_names_and_adapters_of_their_own() -> None:
    assert len({contender.slug for contender in CONTENDERS}) == len(CONTENDERS)
    assert {contender.name for contender in CONTENDERS if not contender.is_peer} == {
        "edge",
        "edge, INT4 head",
        "portable",
    }
    adapters = Path(__file__).parents[2] / "benchmarks" / "peers" / "adapters"
    assert all((adapters / f"{contender.adapter}.py").is_file() for contender in CONTENDERS)
    with pytest.raises(ValueError, match="nobody"):
        find(["nobody"])


def test_high_water_mark_is_read_from_proc() -> None:
    assert vm_high_water(["Name:\tx", "VmHWM:\t    2048 kB", "VmRSS:\t 1 kB"]) == 2048 * 1024
    with pytest.raises(ValueError, match="VmHWM"):
        vm_high_water(["Name:\tx"])
