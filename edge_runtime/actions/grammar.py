"""The Lark text of a format: coordinates on its scale, its names and arguments only, strings that can be read back.

Free text has a longest length; strings of an action end where the model, or `max_tokens`, ends them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

from edge_runtime.actions.format import ActionRow, Argument, FormatTable, FreeText

_JSON_STRING = r"""/"([^"\\\x00-\x1f]|\\["\\\/nrt])*"/"""
_CALL_STRING = r"""/'([^'\\\x00-\x1f]|\\['"\\nt])*'/"""
_NAME = "[A-Za-z0-9_]{1,20}"
_JSON_KEY = rf"""/"([!#-\[\]-~]|\\["\\]|{_NAME})"/"""
_CALL_KEY = rf"""/'([!-&(-\[\]-~]|\\['\\]|{_NAME})'/"""
_TERMINALS = {
    "SECONDS": r"/(0|[1-9][0-9]{0,2})(\.[0-9]{1,2})?/",
    "STEPS": r"/-?(0|[1-9][0-9]{0,4})/",
    "FIELD": r"/[^\t\n]+/",
}
_COORDINATES = {999: r"/0|[1-9][0-9]{0,2}/", 1000: r"/0|[1-9][0-9]{0,2}|1000/"}
_FREE_SEPARATORS = {"comma": ",", "colon": ":"}
_MAX_LINES = 30
_MAX_KEYS = 4


def lark(table: FormatTable, special: frozenset[str]) -> str:
    """The grammar of `table`; see `ActionFormat.grammar`."""
    return _Grammar(table, special).text()


class _Grammar:
    def __init__(self, table: FormatTable, special: frozenset[str]) -> None:
        self._table = table
        self._frame = table.frame
        self._special = special
        self._terminals = {"COORDINATE": _COORDINATES[table.divisor], **_TERMINALS}
        self._is_free = self._frame.spacing == "either"
        blank = " " if self._frame.spacing == "spaced" else ""
        self._comma = "comma" if self._is_free else _literal("," + blank)
        self._colon = "colon" if self._is_free else _literal(":" + blank)
        is_call = table.frame.syntax == "call"
        self._terminals["STRING"] = _CALL_STRING if is_call else _JSON_STRING
        self._terminals["KEY"] = _CALL_KEY if is_call else _JSON_KEY

    def text(self) -> str:
        before = [self._free(text) for text in self._frame.before if text.open.strip() not in self._special]
        after = [self._free(text) for text in self._frame.after]
        refusals = [self._said(text) for text in self._table.refusals]
        whole = [*before, self._said(self._frame.open), "action", self._said(self._frame.close), *after]
        rules = [
            "start: " + " | ".join([" ".join(filter(None, whole)), *refusals]),
            "action: " + "\n    | ".join(self._action(row) for row in self._table.actions),
            *(f'{name}: {_literal(sign)} " "?' for name, sign in _FREE_SEPARATORS.items() if self._is_free),
        ]
        used = set(re.findall(r"\b[A-Z]+(?:_[0-9]+)?\b", "\n".join(rules)))
        rules += [f"{name}: {pattern}" for name, pattern in self._terminals.items() if name in used]
        return "\n".join(rules) + "\n"

    def _said(self, text: str) -> str:
        """Literal `text`, with the special tokens in it as such."""
        if not self._special:
            return _literal(text)
        names = "|".join(map(re.escape, sorted(self._special, key=len, reverse=True)))
        pieces = re.split(f"({names})", text)
        return " ".join(piece if piece in self._special else _literal(piece) for piece in pieces if piece)

    def _free(self, text: FreeText) -> str:
        name = f"TEXT_{sum(key.startswith('TEXT_') for key in self._terminals)}"
        self._terminals[name] = {
            "line": rf"/[^\n]{{1,{text.max_chars}}}/",
            "field": rf"/[^\t\n]{{1,{text.max_chars}}}/",
            "lines": rf"/[^<\n][^\n]{{0,{text.max_chars - 1}}}/",
            "span": rf"/[^<]{{1,{text.max_chars}}}/",
        }[text.text]
        body = rf'({name} "\n"){{1,{_MAX_LINES}}}' if text.text == "lines" else name
        whole = " ".join(filter(None, (self._said(text.open), body, self._said(text.close))))
        return f"({whole})?" if text.optional else whole

    def _action(self, row: ActionRow) -> str:
        make = {"json": self._json, "call": self._call, "fields": self._fields, "point": self._point}
        return _merged(make[self._frame.syntax](row))

    def _json(self, row: ActionRow) -> list[str]:
        function = self._frame.function
        pieces = [_literal("{")]
        if function:
            pieces += [
                _literal('"name"'),
                self._colon,
                _literal(json.dumps(function)),
                self._comma,
                _literal('"arguments"'),
            ]
            pieces += [self._colon, _literal("{")]
        pieces += [_literal('"action"'), self._colon, _literal(json.dumps(row.says))]
        for argument in row.arguments:
            said = [self._comma, _literal(json.dumps(argument.name)), self._colon, *self._json_value(argument)]
            pieces += [f"({_merged(said)})?"] if argument.optional else said
        return [*pieces, _literal("}}" if function else "}")]

    def _json_value(self, argument: Argument) -> list[str]:
        if argument.values:
            return [_one_of(json.dumps(value) for value in argument.values)]
        if argument.sets in ("point", "point2"):
            return [_literal("["), "COORDINATE", self._comma, "COORDINATE", _literal("]")]
        if argument.sets == "keys":
            return [_literal("["), "KEY", f"({self._comma} KEY){{0,{_MAX_KEYS - 1}}}", _literal("]")]
        return [_scalar(argument, "STRING")]

    def _call(self, row: ActionRow) -> list[str]:
        pieces = [_literal(row.says + "(")]
        for number, argument in enumerate(row.arguments):
            pieces += [_literal((", " if number else "") + argument.name + "="), *self._call_value(argument)]
        return [*pieces, _literal(")")]

    def _call_value(self, argument: Argument) -> list[str]:
        if argument.values:
            return [_one_of(f"'{value}'" for value in argument.values)]
        if argument.sets in ("point", "point2"):
            return [_literal("("), "COORDINATE", _literal(","), "COORDINATE", _literal(")")]
        if argument.sets == "keys":
            return [_literal("["), "KEY", f'(", " KEY){{0,{_MAX_KEYS - 1}}}', _literal("]")]
        return [_scalar(argument, "STRING")]

    def _fields(self, row: ActionRow) -> list[str]:
        pieces = [_literal(f"action:{row.says}")]
        for argument in row.arguments:
            said = [_literal(f"\t{argument.name}:"), *self._field_value(argument)]
            pieces += [f"({_merged(said)})?"] if argument.optional else said
        return pieces

    def _field_value(self, argument: Argument) -> list[str]:
        if argument.sets in ("point", "point2"):
            return ["COORDINATE", _literal(","), "COORDINATE"]
        return [_scalar(argument, "FIELD")]

    def _point(self, _row: ActionRow) -> list[str]:
        first, between, last = map(_literal, self._frame.point)
        return [first, "COORDINATE", between, "COORDINATE", last]


def _scalar(argument: Argument, string: str) -> str:
    kinds = {"x": "COORDINATE", "y": "COORDINATE", "seconds": "SECONDS", "scroll": "STEPS", "hscroll": "STEPS"}
    kinds["key"] = "KEY"
    return kinds.get(argument.sets, string)


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if text else ""


def _one_of(texts: Iterable[str]) -> str:
    return "(" + " | ".join(map(_literal, texts)) + ")"


def _merged(pieces: Iterable[str]) -> str:
    """The pieces in a row; literals that touch become one."""
    merged: list[str] = []
    for piece in filter(None, pieces):
        if merged and merged[-1].startswith('"') and piece.startswith('"'):
            merged[-1] = _literal(json.loads(merged[-1]) + json.loads(piece))
        else:
            merged.append(piece)
    return " ".join(merged)
