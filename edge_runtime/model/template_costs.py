"""How much text an operation of a template makes at most, told before it runs. Pure functions; know nothing of jinja2.

Rough, and never too low by much: what matters is that a program of a few lines cannot make gigabytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

_DIGITS = re.compile(r"\d{1,18}")


def text_size(value: Any, limit: int) -> int:
    """Characters that `value` has when printed, about; counting ends past `limit`.

    A list that holds another one twice is counted twice, as it is printed twice.
    """
    size, waiting = 0, [value]
    while waiting and size <= limit:
        item = waiting.pop()
        if isinstance(item, str):
            size += len(item)
        elif isinstance(item, Mapping):
            waiting += item.keys()
            waiting += item.values()
            size += 4 * len(item)
        elif isinstance(item, (list, tuple, set, frozenset)):
            waiting += item
            size += 2 * len(item)
        else:
            size += item.bit_length() // 3 if isinstance(item, int) else 16
    return size


def cost_of_operator(operator: str, left: Any, right: Any, limit: int) -> int:
    """Characters, items or digits that `left operator right` makes; `operator` is one of `*`, `**`, `+`, `%`."""
    if operator == "%" and isinstance(left, str):
        return _cost_of_format(left, (right,), limit)
    if operator == "**":
        return left.bit_length() * max(0, right) if isinstance(left, int) and isinstance(right, int) else 0
    sized = [len(value) if isinstance(value, (str, list, tuple)) else None for value in (left, right)]
    if operator == "+":
        return sum(size or 0 for size in sized)
    if operator == "*":
        factors = [value if size is None else size for value, size in zip((left, right), sized, strict=True)]
        if all(isinstance(factor, int) for factor in factors) and sized != [None, None]:
            return max(0, int(factors[0])) * max(0, int(factors[1]))
        return sum(value.bit_length() // 3 for value in (left, right) if isinstance(value, int))
    return 0


def cost_of_call(name: str, values: Sequence[Any], limit: int) -> int:
    """Characters that a filter, or a method of strings, of that name makes of `values`: its text first."""
    size = sum(text_size(value, limit) for value in values)
    text = values[0] if isinstance(values[0], str) else ""
    number = max([0, *(abs(value) for value in values[1:] if isinstance(value, int))])
    longest = max([number, *(len(value) for value in values[1:] if isinstance(value, str))])
    items = max([0, *(len(value) for value in values if isinstance(value, (list, tuple)))])
    if name in {"format", "format_map"}:
        return _cost_of_format(text, values[1:], limit)
    more = {
        "replace": text.count(values[1]) * longest if len(values) > 1 and isinstance(values[1], str) else 0,
        "join": items * max(len(text), longest),
        "sum": items * size,  # of lists: each is copied for all that follow it
        "expandtabs": text.count("\t") * max(8, longest),
        "indent": (1 + text.count("\n")) * max(4, longest),
        "wordwrap": size * longest,
        "tojson": size * longest,
    }
    return size + more.get(name, number)


def _cost_of_format(layout: str, values: Sequence[Any], limit: int) -> int:
    """Every field may print every value, as wide as any number in sight."""
    fields = layout.count("%") + layout.count("{")
    widths = [int(digits) for digits in _DIGITS.findall(layout)]
    widths += [abs(value) for value in _flat(values) if isinstance(value, int)]
    return len(layout) + fields * (sum(text_size(value, limit) for value in values) + max([0, *widths]))


def _flat(values: Sequence[Any]) -> list[Any]:
    return [item for value in values for item in (value if isinstance(value, (list, tuple)) else (value,))]
