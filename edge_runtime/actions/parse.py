"""From the text of an answer to actions: as the grammar has it, and with the liberties that models without one take.

The liberties are those that docs/actions.md lists. Nothing is guessed: what they do not cover raises `BadAction`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from edge_runtime.actions import values
from edge_runtime.actions.action import Action
from edge_runtime.actions.format import ActionRow, FormatTable, FreeText
from edge_runtime.actions.syntax import Call, read_calls, read_fields, read_json, read_point
from edge_runtime.actions.values import NotUnderstood
from edge_runtime.errors import BadAction

MAX_CHARS = 100_000
"""Of an answer that is looked at."""
_NOWHERE = (-1, -1)
_READERS = {"json": read_json, "call": read_calls, "fields": read_fields, "point": read_point}
_THOUGHT = re.compile(r"\s*<think>.*?</think>", re.DOTALL)


def parse(table: FormatTable, text: str) -> list[Action]:
    """See `ActionFormat.parse`."""
    said = text.strip()
    try:
        if len(said) > MAX_CHARS:
            raise NotUnderstood(f"it has {len(said)} characters, of which {MAX_CHARS} are looked at")
        if said.casefold().rstrip(".") in table.refusals:
            return [Action("refuse")]
        calls = _READERS[table.frame.syntax](table, _without_free_text(table, said))
        actions = [_action(table, call) for call in calls]
        for action in actions:
            "".join((action.text or "", *action.keys)).encode()  # half a character, as JSON can say one, is no text
    except (NotUnderstood, UnicodeEncodeError) as error:
        raise BadAction(
            f"the answer says no action of {table.name}: {error}. It says {said[:200]!r}. Ask again; with "
            f"actions={table.name!r} nothing but its actions can be said"
        ) from error
    return actions


def _without_free_text(table: FormatTable, said: str) -> str:
    """`said` behind the free text that the format has before an action."""
    said = said[match.end() :].lstrip() if (match := _THOUGHT.match(said)) else said
    if table.frame.syntax == "fields":  # there all is told by name
        return re.sub(r"^\s*<\s*think\s*>.*?<\s*/\s*think\s*>\s*", "", said, flags=re.DOTALL | re.IGNORECASE)
    for free in table.frame.before:
        if match := re.match(_free_pattern(free), said, re.DOTALL):
            said = said[match.end() :]
    return said


def _free_pattern(free: FreeText) -> str:
    body = {"line": r"[^\n]*", "field": r"[^\t\n]*", "lines": r"(?:[^<\n][^\n]*\n)*", "span": r"[^<]*"}[free.text]
    return re.escape(free.open) + body + re.escape(free.close)


def _action(table: FormatTable, call: Call) -> Action:
    """What a call means."""
    name = call.name.strip().casefold()
    rows = [row for row in table.actions if name in {known.casefold() for known in (row.says, *row.also_says)}]
    if not rows:
        known = ", ".join(dict.fromkeys(row.says for row in table.actions))
        raise NotUnderstood(f"{call.name!r:.80} is none of {known}")
    arguments = {key: value for key, value in call.arguments.items() if value is not None}
    unknown = arguments.keys() - table.argument_names
    if unknown:
        raise NotUnderstood(f"{rows[0].says} has no argument {', '.join(map(repr, sorted(unknown)))}")
    fitting = [row for row in rows if not _missing(row, arguments)]
    if not fitting:
        raise NotUnderstood(f"{rows[0].says} lacks {' and '.join(_missing(rows[0], arguments))}")
    return _filled(table, fitting[0], arguments)


def _missing(row: ActionRow, given: Iterable[str]) -> list[str]:
    return [argument.name for argument in row.arguments if not argument.optional and argument.name not in set(given)]


def _filled(table: FormatTable, row: ActionRow, given: dict[str, object]) -> Action:
    """The action of `row`; what it has no argument for, but another one of the format, means what it means there."""
    rows = (row, *table.actions)
    known = {argument.name: argument for each in reversed(rows) for argument in each.arguments}
    sets: dict[str, object] = {"kind": row.kind, "keys": row.keys}
    for name, value in given.items():
        sets |= values.read(known[name], value, table.divisor)
    if "x" in sets or "y" in sets:
        if not {"x", "y"} <= sets.keys():
            raise NotUnderstood(f"{row.says} has half of a point")
        sets["point"] = values.read_point((sets.pop("x"), sets.pop("y")), table.divisor)
    if _NOWHERE in (sets.get("point"), sets.get("point2")):
        return Action("refuse")
    has_point = "point" in sets or "point2" in sets
    return Action(**sets, divisor=table.divisor if has_point else None)  # type: ignore[arg-type]
