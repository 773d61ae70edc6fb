"""What of a JSON schema is refused before a grammar is made of it. Pure: knows nothing of llguidance but its limits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from math import lcm
from typing import Any

from edge_runtime.errors import BadParameter
from edge_runtime.model.tools import MAX_NESTING

MAX_REMAINDERS = 10_007
"""What all `multipleOf` together may ask for: an automaton has a state for each remainder, in memory that nothing else
bounds and time that nothing ends. A factor of 2 or 5 costs nothing, it shows in the last digits."""


def checked_schema(text: str, name: str = "schema") -> str:
    """`text` of a JSON schema, spelled plainly; `name` is what refusals call it. Raises `BadParameter`."""
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadParameter(
            f"{name} is not JSON ({error}); wanted a JSON schema, as an object or as its text"
        ) from error
    if schema is True:
        schema = {}
    if schema is False:
        raise BadParameter(f"{name} is false, which allows nothing")
    if not isinstance(schema, dict):
        raise BadParameter(f'{name} is {text[:40]!r}; wanted a JSON schema: an object such as {{"type": "object"}}')
    remainders = 1
    for key, value in _members(schema, name):
        if key == "x-guidance":
            raise BadParameter(f"{name} has x-guidance, which is ours to say; leave it out")
        if key == "multipleOf":
            remainders = lcm(remainders, _remainders(value))
    if remainders > MAX_REMAINDERS:
        raise BadParameter(
            f"{name} has multipleOf values whose least common multiple is over {MAX_REMAINDERS:,}, factors of 2 and 5 "
            "aside; leave some out, and check the number afterwards"
        )
    return json.dumps(schema, ensure_ascii=False)


def _members(schema: dict[str, Any], name: str) -> Iterator[tuple[str, Any]]:
    """Keys and values of all objects in it. Raises `BadParameter` where they are nested too deep."""
    level: list[Any] = [schema]
    for _ in range(MAX_NESTING):
        for node in level:
            if isinstance(node, dict):
                yield from node.items()
        values = [one for node in level for one in (node.values() if isinstance(node, dict) else node)]
        level = [one for one in values if isinstance(one, (dict, list))]
        if not level:
            return
    raise BadParameter(f"{name} has more than {MAX_NESTING} lists and objects in each other; make it flatter")


def _remainders(divisor: Any) -> int:
    """The part of a divisor that shares no factor with 10; what is no divisor is for llguidance to refuse."""
    try:
        digits = Decimal(str(divisor)).as_tuple().digits
    except InvalidOperation:
        return 1
    number = int("".join(map(str, digits)))
    for factor in (2, 5):
        while number and number % factor == 0:
            number //= factor
    return max(1, number)
