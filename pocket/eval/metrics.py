"""What an answer is worth: pure functions from a case and the answer's text to numbers in [0, 1].

An answer counts only in the format the model promises (`questions.py`); spaces around it are forgiven, nothing else is.
"""

import json
import re
from collections import Counter
from collections.abc import Hashable, Iterable

from pocket.eval.case import Case
from pocket.screens.questions import ABSENT
from pocket.screens.screen import Element, Screen

_POINT = re.compile(r"\((\d{1,4}), ?(\d{1,4})\)")
_LINE = re.compile(r'(\w+) "(.*)" \((\d{1,4}), ?(\d{1,4})\)')
_KEYS = {"click": {"action", "x", "y"}, "type": {"action", "x", "y", "text"}, "none": {"action"}}
Action = dict[str, str | int]


def score(case: Case, answer: str) -> dict[str, float]:
    """The metrics that this case's task counts in, and the answer's value in each."""
    answer, turn = answer.strip(), case.turn
    exact = float(answer == turn.answer)
    if turn.task == "point":
        assert turn.element is not None
        hit = point_hits(parse_point(answer), case.screen, turn.element)
        return {"point": hit, "false_absent": float(answer == ABSENT)}
    if turn.answer.startswith("{"):
        right = action_is_right(answer, turn.answer, case.screen, turn.element)
        metric = "abstention" if turn.task == "absent" else "action"
        return {metric: right, "json": float(parse_action(answer) is not None)}
    if turn.task in ("title", "read", "value"):
        return {"read_exact": exact, "read_cer": character_error_rate(answer, turn.answer)}
    if turn.task == "list":
        return _list_scores(answer, turn.answer, case.screen)
    if turn.task in ("names", "text"):
        return {"names_f1": f1(answer.split("\n"), turn.answer.split("\n"))}
    return {{"absent": "abstention"}.get(turn.task, turn.task): exact}  # kind, state, exists, change


def parse_point(text: str) -> tuple[int, int] | None:
    """A point `(x, y)`, 0-1000 relative to the image; None for anything else."""
    match = _POINT.fullmatch(text)
    return (int(match[1]), int(match[2])) if match else None


def point_hits(point: tuple[int, int] | None, screen: Screen, element: Element) -> float:
    """Whether the point lies inside the part of `element` to click."""
    if point is None:
        return 0.0
    x, y = point[0] * screen.width / 1000, point[1] * screen.height / 1000
    left, top, right, bottom = element.target
    return float(left <= x <= right and top <= y <= bottom)


def parse_action(text: str) -> Action | None:
    """A JSON action with exactly the keys and types of its kind; None for anything else."""
    try:
        action = json.loads(text)
    except json.JSONDecodeError:
        return None
    if not isinstance(action, dict) or not isinstance(action.get("action"), str):
        return None
    if set(action) != _KEYS.get(action["action"]):
        return None
    places = [action[axis] for axis in ("x", "y") if axis in action]
    if any(type(place) is not int or not 0 <= place <= 1000 for place in places):
        return None
    return action if isinstance(action.get("text", ""), str) else None


def action_is_right(answer: str, expected: str, screen: Screen, element: Element | None) -> float:
    """Whether it is the right action, with the right text, inside the right element."""
    action, wanted = parse_action(answer), json.loads(expected)
    if action is None or action["action"] != wanted["action"] or action.get("text") != wanted.get("text"):
        return 0.0
    if wanted["action"] == "none":
        return 1.0
    assert element is not None
    return point_hits((int(action["x"]), int(action["y"])), screen, element)


def character_error_rate(answer: str, expected: str) -> float:
    """Edits (insert, delete, replace) per character of `expected`, at most 1."""
    row = list(range(len(expected) + 1))
    for i, got in enumerate(answer, start=1):
        diagonal, row[0] = row[0], i
        for j, wanted in enumerate(expected, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (got != wanted))
    return min(1.0, row[-1] / max(1, len(expected)))


def f1(found: Iterable[Hashable], wanted: Iterable[Hashable]) -> float:
    """Harmonic mean of precision and recall of two multisets, order ignored; 0 when either is empty."""
    found, wanted = Counter(found), Counter(wanted)
    shared = (found & wanted).total()
    return 2 * shared / (found.total() + wanted.total()) if shared else 0.0


def _list_scores(answer: str, expected: str, screen: Screen) -> dict[str, float]:
    """`list_f1` over kinds and names; `list_place_f1` counts a line only if its point is inside that element too."""
    wanted = [_LINE.fullmatch(line) for line in expected.split("\n")]
    named, placed = [], []
    for line in answer.split("\n"):
        match = _LINE.fullmatch(line)
        named.append((match[1], match[2]) if match else line)
        if match:
            same = (e for e in screen.elements if (e.kind, e.name) == (match[1], match[2]))
            point = int(match[3]), int(match[4])
            hit = any(point_hits(point, screen, element) for element in same)
            placed.append((match[1], match[2]) if hit else line)
        else:
            placed.append(line)
    truth = [(match[1], match[2]) for match in wanted if match]
    return {"list_f1": f1(named, truth), "list_place_f1": f1(placed, truth)}
