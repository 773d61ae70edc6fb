"""The four ways in which formats write a call: its name and its arguments by name, not yet looked at.

Readers take the table of a format and the answer's text behind its free text, and raise `NotUnderstood`.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from edge_runtime.actions.format import FormatTable
from edge_runtime.actions.values import NotUnderstood

_UNREADABLE = (ValueError, SyntaxError, RecursionError, MemoryError, TypeError)
"""What Python's own parsers raise for what they cannot read, or will not."""
_ONE_QUOTED = re.compile(r"(\w+)\(\s*(\w+)\s*=\s*(['\"])(.*)\3\s*\)", re.DOTALL)
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?")
_N = rf"\s*{_NUMBER.pattern}\s*"
_PAIR = rf"[\[(]{_N},{_N}[\])]"
_BOX = re.compile(rf"{_PAIR}\s*,\s*{_PAIR}|[\[(]{_N}(?:,{_N}){{3}}[\])]|{_PAIR}")
_MAX_TRIES = 100
"""Places in a text at which a call may begin."""


@dataclass(frozen=True, slots=True)
class Call:
    """What was said to be done."""

    name: str
    arguments: dict[str, object]


def read_json(table: FormatTable, text: str) -> list[Call]:
    """A call in its marks, or several; without marks, the first object that is one."""
    if marked := list(_marked(text, table.frame.open.strip(), table.frame.close.strip())):
        return [_json_call(table, value) for value in marked]
    for match in islice(re.finditer("{", text), _MAX_TRIES):
        value, _ = _object(text, match.start())
        if isinstance(value, dict) and {"action", "arguments"} & value.keys():
            return [_json_call(table, value)]
    raise NotUnderstood("there is no JSON object with an action in it")


def _marked(text: str, mark: str, end: str) -> Iterator[object]:
    """The values behind each `mark`; None for what is none. A mark inside of a value is text."""
    place = text.find(mark) if mark else -1
    while place >= 0:
        value, place = _object(text, place + len(mark), end)
        yield value
        place = text.find(mark, place)


def _object(text: str, start: int, end: str = "") -> tuple[object, int]:
    """The JSON value that begins at `start`, or the Python literal up to `end`, and where it ends; None for neither."""
    try:
        start += len(text[start:]) - len(text[start:].lstrip())
        return json.JSONDecoder(strict=False).raw_decode(text, start)
    except _UNREADABLE:
        stop = text.find(end, start) if end else -1
        stop = len(text) if stop < 0 else stop
        return _literal(text[start:stop]), stop


def _literal(text: str) -> object:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes that Python does not know
            return ast.literal_eval(text.strip())
    except _UNREADABLE:
        return None


def _json_call(table: FormatTable, value: object) -> Call:
    """Of `{"name": ..., "arguments": {"action": ...}}`, or of the arguments alone."""
    if not isinstance(value, dict):
        raise NotUnderstood("what stands where the call should is no JSON object")
    name = value.get("name", table.frame.function)
    if "action" not in value and name != table.frame.function:
        raise NotUnderstood(f"it calls {name!r:.80}; wanted {table.frame.function}")
    arguments = value if "action" in value else value.get("arguments")
    if isinstance(arguments, str):
        arguments, _ = _object(arguments, 0)
    if not isinstance(arguments, dict) or not isinstance(arguments.get("action"), str):
        raise NotUnderstood("the call has no action")
    return Call(arguments["action"], {key: one for key, one in arguments.items() if key != "action"})


def read_calls(table: FormatTable, text: str) -> list[Call]:
    """`NAME(argument=value, ...)` in its marks, or alone; values are Python's."""
    mark, end = table.frame.open.strip(), table.frame.close.strip()
    body = text.partition(mark)[2] if mark in text else text
    inner = body.rpartition(end)[0] if end in body else body
    return [_python_call(inner.strip())]


def _python_call(text: str) -> Call:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            node = ast.parse(text, mode="eval").body
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.args:
            arguments = {keyword.arg: ast.literal_eval(keyword.value) for keyword in node.keywords if keyword.arg}
            if len(arguments) == len(node.keywords):
                return Call(node.func.id, arguments)
    except _UNREADABLE:
        if match := _ONE_QUOTED.fullmatch(text):  # quotes or newlines in it, as they are
            return Call(match[1], {match[2]: match[4]})
    raise NotUnderstood("there is no call such as Click(box=(1,2))")


def read_fields(table: FormatTable, text: str) -> list[Call]:
    r"""`name:value`, with tabs between them; a piece that begins with no name belongs to the one before it."""
    beside = (free.open.strip(":\t") for free in (*table.frame.before, *table.frame.after) if free.text == "field")
    names = table.argument_names | {"action", *beside}
    fields: dict[str, str] = {}
    last = ""
    for piece in text.split("\t"):
        name, sign, value = piece.partition(":")
        if sign and name.strip() in names:
            last = name.strip()
            fields[last] = value
        elif last:
            fields[last] += "\t" + piece
    if "action" not in fields:
        raise NotUnderstood("there is no field named action")
    return [Call(fields["action"], {name: fields[name].strip() for name in fields if name in table.argument_names})]


def read_point(table: FormatTable, text: str) -> list[Call]:
    """The first pair of numbers in brackets, or a box of four, as one or as two pairs."""
    mark = table.frame.open.strip()
    row = table.actions[0]
    if match := _BOX.search(text.partition(mark)[2] if mark and mark in text else text):
        numbers: list[object] = [float(number) for number in _NUMBER.findall(match[0])]
        return [Call(row.says, {row.arguments[0].name: numbers})]
    raise NotUnderstood("there is no point in it")
