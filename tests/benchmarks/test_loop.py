"""The agent's loop: which turns, which screens, and what each request holds; over a worker that only listens."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

from benchmarks.memory import Measured, rows
from benchmarks.peers.loop import Loop, markdown, take_turns
from benchmarks.peers.plot import plot
from benchmarks.peers.process import WorkerFailed
from benchmarks.peers.scenes import CYCLE, Desktop, PocketScreens, Scene, turns


class Listener:
    """Answers every request alike and keeps it."""

    def __init__(self, answer: dict[str, Any] | None = None) -> None:
        self.requests: list[dict[str, Any]] = []
        self.answer = answer or {"result": {"first_token_s": 1.0, "total_s": 2.0, "text": "drawn", "vision_s": None}}

    def ask(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        self.requests.append(request)
        return {kind: dict(value) if isinstance(value, dict) else value for kind, value in self.answer.items()}


def asked(scene: Scene, num_turns: int) -> list[list[dict[str, Any]]]:
    listener = Listener()
    told = list(take_turns(listener, Loop(scene, num_turns, 1, 4096), mode="history"))  # type: ignore[arg-type]
    assert [turn["kind"] for turn in told] == [turn.kind for turn in turns(num_turns)]
    assert all("text" not in turn for turn in told)
    return [request["history"] for request in listener.requests]


def test_every_cycle_begins_with_a_screen_that_it_shows_again() -> None:
    made = turns(2 * len(CYCLE) + 3)
    assert [turn.kind for turn in made] == [*CYCLE, *CYCLE, *CYCLE[:3]]
    for start in (0, len(CYCLE)):
        cycle = made[start : start + len(CYCLE)]
        seen, changed = (cycle[CYCLE.index(kind)] for kind in ("seen before", "changed"))
        assert (seen.number, seen.changed) == (cycle[0].number, False)
        assert changed.changed
        assert changed.number == cycle[CYCLE.index("unchanged")].number
    new = [turn.number for turn in made if turn.kind == "new screen"]
    assert new == list(range(len(new)))


def test_a_history_grows_and_again_is_the_request_before(tmp_path: Path) -> None:
    histories = asked(Desktop(tmp_path, 64, 48, answer_tokens=8), 8)
    for before, history, turn in zip(histories, histories[1:], turns(8)[1:], strict=False):
        if turn.kind == "again":
            assert history == before
        else:
            assert history[: len(before)] == before
            answer, question = history[len(before) :]
            assert (answer["role"], question["role"]) == ("assistant", "user")
            assert answer["text"].isdigit()
            assert len(answer["text"]) == 8
            assert bool(question["images"]) == turn.brings_picture
    assert histories[0][0]["role"] == "system"


def test_answers_of_pocket_join_the_history_as_they_came(tmp_path: Path) -> None:
    pytest.importorskip("pocket.screens.painter")
    histories = asked(PocketScreens(tmp_path), 6)
    assert {said["text"] for said in histories[-1] if said["role"] == "assistant"} == {"drawn"}
    screens = [said["images"][0] for said in histories[-1] if said["images"]]
    assert len(set(screens)) == 3  # new, new, the same, changed


@pytest.mark.parametrize("kind", [Desktop, PocketScreens])
def test_screens_are_the_same_in_every_run_and_changed_in_a_part(kind: type, tmp_path: Path) -> None:
    def draw(run: str, changed: bool) -> np.ndarray[Any, Any]:
        folder = tmp_path / run
        folder.mkdir(exist_ok=True)
        scene = Desktop(folder, 320, 240, 8) if kind is Desktop else PocketScreens(folder)
        image = cv2.imread(str(scene.screen(3, changed)))
        assert image is not None
        return image

    before, after = draw("one", changed=False), draw("one", changed=True)
    np.testing.assert_array_equal(before, draw("two", changed=False))
    np.testing.assert_array_equal(after, draw("two", changed=True))
    assert 0 < np.mean(np.any(before != after, axis=-1)) < 0.6


def test_what_cannot_be_done_ends_the_loop(tmp_path: Path) -> None:
    worker = Listener({"cannot": "no way to forget"})
    with pytest.raises(WorkerFailed, match="turn 1: no way to forget"):
        list(take_turns(worker, Loop(Desktop(tmp_path, 64, 48, 8), 2, 1, 4096), mode="forgetful"))  # type: ignore[arg-type]


TURN = {"first_token_s": 1.25, "total_s": 2.0, "prompt_tokens": 1000, "computed_tokens": 30, "vision_s": None}
RESULT: dict[str, Any] = {
    "scene": "desk & chair",
    "kinds": ["new screen", "again"],
    "contenders": {
        "one": {"turns": [TURN, TURN | {"computed_tokens": None, "first_token_s": 0.01}]},
        "two": {"turns": [TURN], "trouble": "it died"},
    },
}


def test_a_table_per_metric_has_a_row_per_turn_and_says_who_is_missing() -> None:
    table = markdown(RESULT)
    first, _, computed, prompt, *_ = table.split("\n\n")
    assert first.splitlines()[0] == "| seconds to the first token | | one | two |"
    assert first.splitlines()[2:] == ["| 1 | new screen | 1.25 | 1.25 |", "| 2 | again | 0.01 | - |"]
    assert computed.splitlines()[2:] == ["| 1 | new screen | 30 | 30 |", "| 2 | again | - | - |"]
    assert "| 1 | new screen | 1,000 | 1,000 |" in prompt
    assert "vision" not in table
    assert table.endswith("- two: **it died**")


def test_plot_has_a_point_per_turn_and_a_panel_per_result() -> None:
    picture = ElementTree.fromstring(plot([RESULT, RESULT | {"kinds": ["new screen"] * 40}]))
    space = "{http://www.w3.org/2000/svg}"
    panels = picture.findall(f"{space}g")
    assert [len(panel.findall(f"{space}circle")) for panel in panels] == [3, 3]
    words = ["".join(text.itertext()) for text in panels[0].iter(f"{space}text")]
    assert {"desk & chair: seconds to the first token", "again 2", "one", "two", "0.01", "10"} <= set(words)
    low, high = (float(panels[0].findall(f"{space}circle")[turn].attrib["cy"]) for turn in (1, 0))
    assert low > high  # downwards is less
    assert "turn 40" in ["".join(text.itertext()) for text in panels[1].iter(f"{space}text")]


def test_a_table_of_memory_compares_with_the_plan() -> None:
    plan = SimpleNamespace(total_bytes=1000 * 2**20, decoding_bytes=84 * 2**20, loaded_bytes=200 * 2**20)
    seen = Measured(loaded=100 * 2**20, server_peak=450 * 2**20, decoding_peak=50 * 2**20)
    table = {row[0]: row[1:] for row in rows(SimpleNamespace(plan=plan), seen)}  # type: ignore[arg-type]
    assert table["once loaded"] == ("200 MiB", "100 MiB", "50 %")
    assert table["grown since"] == ("700 MiB", "350 MiB", "50 %")
    assert table["server at its peak"] == ("900 MiB", "450 MiB", "50 %")
    assert table["both"] == ("1000 MiB", "500 MiB", "50 %")
