"""Every answer is true of its screen, and what changed is what the two pages differ in."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from random import Random

import pytest

from pocket.eval.metrics import parse_action, parse_point, point_hits
from pocket.screens.changes import NOTHING, pair
from pocket.screens.painter import measure
from pocket.screens.questions import (
    ABSENT,
    NO_ACTION,
    TASKS,
    Ask,
    Turn,
    ask_absent,
    ask_click,
    ask_exists,
    ask_list,
    ask_names,
    ask_point,
    ask_read,
    ask_set,
    ask_state,
    ask_text,
    ask_title,
    ask_type,
    ask_value,
    reading_order,
)
from pocket.screens.screen import TOGGLES, Screen
from pocket.screens.templates import compose
from pocket.screens.words import Phrases

pytestmark = pytest.mark.usefixtures("fonts")

PHRASES = Phrases("heldout")


def asked(task: Ask, count: int = 60) -> Iterator[tuple[Screen, Turn]]:
    """Screens and what `task` makes of them; fails if it finds hardly anything to ask."""
    found = 0
    for seed in range(count):
        rng = Random(f"{task.__name__}/{seed}")
        screen = measure(compose(rng, PHRASES, 384, 256))
        turn = task(rng, screen, PHRASES)
        if turn is not None:
            found += 1
            yield screen, turn
    assert found > count // 6, f"{task.__name__} asked only {found} questions"


def test_names_never_repeat_on_a_screen() -> None:
    for screen, _ in asked(ask_point):
        names = [element.name for element in screen.elements]
        assert len(set(names)) == len(names)


def test_points_lie_inside_the_named_element() -> None:
    for screen, turn in asked(ask_point):
        assert turn.element is not None
        assert turn.element.name in turn.question
        assert point_hits(parse_point(turn.answer), screen, turn.element) == 1


@pytest.mark.parametrize("task", [ask_click, ask_type], ids=["click", "type"])
def test_actions_are_json_and_hit(task: Ask) -> None:
    for screen, turn in asked(task):
        action = parse_action(turn.answer)
        assert action is not None
        assert turn.element is not None
        assert point_hits((int(action["x"]), int(action["y"])), screen, turn.element) == 1
        if action["action"] == "type":
            assert f'"{action["text"]}"' in turn.question


def test_nothing_is_clicked_that_is_as_wanted() -> None:
    seen = set()
    for _, turn in asked(ask_set):
        assert turn.element is not None
        on, off = TOGGLES[turn.element.kind]
        wants_on = bool(re.match(r"Turn on|Check|Make sure .* is (on|checked)", turn.question))
        assert (turn.answer == NO_ACTION) == (turn.element.state == (on if wants_on else off))
        seen.add(turn.answer == NO_ACTION)
    assert seen == {True, False}


def test_what_is_read_is_what_stands_there() -> None:
    for screen, turn in asked(ask_read):
        match = re.search(r"\((\d+), (\d+)\)", turn.question)
        assert match is not None
        at = screen.at((int(match[1]), int(match[2])))
        assert at is not None
        assert at.name == turn.answer
    for screen, turn in asked(ask_title):
        assert turn.answer in [element.name for element in screen.elements if element.kind == "title"]
    for screen, turn in asked(ask_value):
        assert any(element.name in turn.question and (element.value or "empty") == turn.answer
                   for element in screen.elements)  # fmt: skip


def test_states_are_those_of_the_screen() -> None:
    for _, turn in asked(ask_state):
        assert turn.element is not None
        state = turn.element.state or "enabled"
        if turn.answer in ("yes", "no"):
            question = turn.question.rstrip("?")
            assert (turn.answer == "yes") == question.endswith(f" {state}")
        else:
            assert turn.answer == state


def test_lists_hold_every_element_once() -> None:
    for screen, turn in asked(ask_list):
        lines = turn.answer.split("\n")
        assert len(lines) == len(screen.elements)
        for line, element in zip(lines, reading_order(screen), strict=True):
            assert line.startswith(f'{element.kind} "{element.name}" (')
    for screen, turn in asked(ask_text):
        assert sorted(turn.answer.split("\n")) == sorted(element.name for element in screen.elements)
    for screen, turn in asked(ask_names):
        listed = turn.answer.split("\n")
        (kind,) = {element.kind for element in screen.elements if element.name in listed}
        assert kind in turn.question
        assert sorted(listed) == sorted(element.name for element in screen.elements if element.kind == kind)


def test_what_is_said_to_be_absent_is() -> None:
    for screen, turn in asked(ask_absent):
        name = turn.thought.removesuffix(f" is {ABSENT}.")
        assert name in turn.question
        assert not screen.named(name)
        assert turn.answer in (ABSENT, NO_ACTION)
    for screen, turn in asked(ask_exists):
        there = any(f"{name} " in f"{turn.question.rstrip('?')} ".replace('"', " ") for name in names_of(screen))
        assert there == (turn.answer == "yes"), turn


def names_of(screen: Screen) -> list[str]:
    return [element.name for element in screen.elements]


def test_the_sentence_says_what_two_pages_differ_in() -> None:
    endings = set()
    for seed in range(120):
        rng = Random(f"pair/{seed}")
        before, after, sentence = pair(rng, PHRASES, compose(rng, PHRASES, 384, 256))
        old = {widget.name: (widget.state, widget.value) for widget in before.widgets}
        new = {widget.name: (widget.state, widget.value) for widget in after.widgets}
        if sentence == NOTHING:
            expected = NOTHING
            assert old == new
        elif gone := set(old) - set(new):
            expected = f"{gone.pop()} disappeared"
        elif come := set(new) - set(old):
            expected = f"{come.pop()} appeared"
        else:
            ((name, (state, value)),) = set(new.items()) - set(old.items())
            changed_value = value != old[name][1]
            expected = f'{name} now says "{value}"' if changed_value else f"{name} is now {state}"
        assert sentence == expected
        endings.add(sentence.split()[-1] if " now says" not in sentence else "says")
    assert {"changed", "appeared", "disappeared", "says"} < endings


def test_every_task_can_be_asked_and_is_plain_ascii() -> None:
    for task in TASKS:
        for _, turn in asked(task):
            assert (turn.question + turn.answer).replace("\n", "").isascii()
            if turn.answer.startswith("{"):
                assert json.loads(turn.answer)
