"""Values of arguments, as models write them, to what an `Action` holds."""

from __future__ import annotations

import re

from edge_runtime.actions.action import Point
from edge_runtime.actions.format import Argument

MAX_COORDINATE = 1000
"""Models whose scale ends at 999 say 1000 now and then: it is the last pixel on either."""
_MAX_NUMBER = 10**9
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?")
_NUMBERS = re.compile(r"[\s(\[]*([-+]?\d+(?:\.\d+)?(?:[\s,]+[-+]?\d+(?:\.\d+)?)*)[\s)\]]*")


class NotUnderstood(Exception):
    """Why an answer is no action; within this package."""


def read(argument: Argument, value: object, divisor: int) -> dict[str, object]:
    """The fields of an `Action` that `value` sets; x and y are numbers yet."""
    sets = argument.sets
    if argument.values:
        return _chosen(argument, value)
    if sets in ("point", "point2"):
        return {sets: read_point(value, divisor)}
    if sets in ("x", "y", "seconds"):
        number = _number(value, argument.name)
        if sets == "seconds" and number < 0:
            raise NotUnderstood(f"{argument.name} is {value!r:.80}; wanted seconds")
        return {sets: number}
    if sets in ("scroll", "hscroll"):
        steps = _number(value, argument.name)
        backward, forward = ("down", "up") if sets == "scroll" else ("left", "right")
        return {"amount": abs(steps), "direction": forward if steps > 0 else backward if steps < 0 else None}
    if sets in ("key", "keys"):
        return {"keys": _keys(value, argument.name)}
    return {"text": _text(value, argument.name)}


def read_point(value: object, divisor: int) -> Point:
    """(x, y) of a pair, the centre of a box of four; (-1, -1) for nowhere."""
    numbers = _point_numbers(value)
    if numbers is None or len(numbers) not in (2, 4):
        raise NotUnderstood(f"{value!r:.80} is no point; wanted two numbers")
    if all(number == -1 for number in numbers):
        return (-1, -1)
    if any(not 0 <= number <= MAX_COORDINATE for number in numbers):
        raise NotUnderstood(f"the point {value!r:.80} is outside of the image; wanted numbers from 0 to {divisor}")
    if len(numbers) == 4:
        return (_plain((numbers[0] + numbers[2]) / 2), _plain((numbers[1] + numbers[3]) / 2))
    return (numbers[0], numbers[1])


def _point_numbers(value: object) -> list[float] | None:
    if isinstance(value, dict) and value.keys() == {"x", "y"}:
        value = [value["x"], value["y"]]
    if isinstance(value, str):
        match = _NUMBERS.fullmatch(value)
        value = _NUMBER.findall(match[1]) if match else None
    if isinstance(value, (list, tuple)) and all(isinstance(one, (list, tuple)) for one in value):
        value = [number for pair in value for number in pair]
    if not isinstance(value, (list, tuple)):
        return None
    return [_number(number, "a coordinate") for number in value]


def _number(value: object, name: str) -> float:
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -_MAX_NUMBER <= value <= _MAX_NUMBER:
        raise NotUnderstood(f"{name} is {value!r:.80}; wanted a number")
    return _plain(value)


def _plain(number: float) -> float:
    """Whole numbers as such."""
    return int(number) if number == int(number) else number


def _text(value: object, name: str) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise NotUnderstood(f"{name} is {value!r:.80}; wanted text")
    return value


def _chosen(argument: Argument, value: object) -> dict[str, object]:
    meanings = {said.casefold(): meant for said, meant in argument.values.items()}
    meant = meanings.get(value.strip().casefold()) if isinstance(value, str) else None
    if meant is None:
        raise NotUnderstood(f"{argument.name} is {value!r:.80}; wanted one of {', '.join(argument.values)}")
    return {"keys": (meant,)} if argument.sets == "key" else {argument.sets: meant}


def _keys(value: object, name: str) -> tuple[str, ...]:
    """A list of keys, one key, or keys with `+` between them; without brackets and quotes of a list in a string."""
    said = value if isinstance(value, (list, tuple)) else [value]
    keys: list[str] = []
    for key in said:
        if not isinstance(key, str):
            raise NotUnderstood(f"{name} is {value!r:.80}; wanted keys")
        bare = key.strip()
        if len(bare) > 1:
            bare = bare.removeprefix("keys=").strip("[]'\" ")
        parts = [part.strip() for part in bare.split("+")]
        keys += parts if all(parts) else [bare]
    if not keys or not all(keys):
        raise NotUnderstood(f"{name} is {value!r:.80}; wanted keys")
    return tuple(keys)
