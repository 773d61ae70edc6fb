r"""Tool calls out of what a model says between the tokens around them, while it says it.

    \n{"name": "get_weather", "arguments": {"city": "Bergen"}}\n
                                           `----- streamed ---'

Once the name is known, and is one that was offered, the arguments are let out as they come; what belongs to the object
around them is held back. Whether it is a call is judged when it is closed: it must be JSON, with a name and arguments
and nothing else. With the grammar of `tool_grammar.py` it always is. Knows nothing of tokens, of channels or of time.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Collection

from edge_runtime.engine.events import ToolCallDelta
from edge_runtime.model.tools import CALL_END, CALL_START, ToolCall, json_value

_OPENING = re.compile(r'\s*\{\s*"name"\s*:\s*"([^"\\]{1,128})"\s*,\s*"arguments"\s*:\s*(?=\{)')
_MAX_OPENING = 1024
"""Characters within which arguments begin, or are not streamed."""


class ToolCalls:
    """The calls of one answer; at most one is open at a time."""

    __slots__ = ("_begun", "_names", "_num_begun", "_said", "_scanner", "complete", "malformed")

    def __init__(self, names: Collection[str]) -> None:
        """`names`: the tools that were offered."""
        self._names = names
        self._said: list[str] | None = None
        self._begun: ToolCall | None = None
        self._scanner = _ObjectScanner()
        self._num_begun = 0
        self.complete: list[ToolCall] = []
        """Those that were closed and are calls."""
        self.malformed: list[str] = []
        """What was wrong with each of the others."""

    @property
    def is_open(self) -> bool:
        """Whether a call has been opened and not closed."""
        return self._said is not None

    def open(self) -> None:
        """A call begins."""
        self._said, self._begun, self._scanner = [], None, _ObjectScanner()

    def feed(self, text: str) -> tuple[str, ToolCallDelta | None]:
        """What the call goes on with; return the part of its arguments that this adds, and of which call it is."""
        assert self._said is not None
        self._said.append(text)
        if self._begun is not None:
            index = self._num_begun - 1
            return (inside, ToolCallDelta(index)) if (inside := self._scanner.feed(text)) else ("", None)
        said = "".join(self._said)
        opening = _OPENING.match(said) if len(said) <= _MAX_OPENING + len(text) else None
        if opening is None or opening[1] not in self._names:
            return "", None
        return self._scanner.feed(said[opening.end() :]), self._begin(opening[1])

    def close(self) -> tuple[str, ToolCallDelta | None] | None:
        """The call ends; return what there is to add to its arguments. None: it was no call, see `take_back`."""
        assert self._said is not None
        try:
            name, arguments = self._judged("".join(self._said))
        except ValueError as error:
            self.malformed.append(str(error))
            return None
        self._said = None
        if self._begun is not None:
            self.complete.append(ToolCall(self._begun.id, name, arguments))
            return "", None
        delta = self._begin(name)
        self.complete.append(ToolCall(delta.id, name, arguments))
        return arguments, delta

    def cut(self, why: str) -> None:
        """The call will not be closed, and so is none; see `take_back`."""
        self.malformed.append(why)

    def take_back(self, end: str = CALL_END) -> str:
        """What was said instead of a call, from its start to its `end`."""
        said, self._said = self._said or [], None
        return "".join((CALL_START, *said, end))

    def _begin(self, name: str) -> ToolCallDelta:
        self._begun = ToolCall(f"call_{secrets.token_hex(12)}", name, "")
        self._num_begun += 1
        return ToolCallDelta(self._num_begun - 1, self._begun.id, name)

    def _judged(self, said: str) -> tuple[str, str]:
        """Name and arguments of a call. Raises `ValueError` for what is none."""
        try:
            value = json_value(said)
        except ValueError as error:
            raise ValueError(f"a call is no JSON: {error}") from error
        if not isinstance(value, dict) or not isinstance(value.get("name"), str):
            raise ValueError("a call has no name")
        name, arguments = value["name"], value.get("arguments")
        if name not in self._names:
            raise ValueError(f"a call is of {name!r:.80}, which was not offered")
        if not isinstance(arguments, dict) or len(value) != 2:
            raise ValueError(f"a call of {name} must have arguments, a JSON object, and nothing else")
        if self._begun is None:
            return name, json.dumps(arguments, ensure_ascii=False)
        if self._begun.name != name or json_value(self._scanner.said) != arguments:
            raise ValueError(f"a call of {name} says its name or its arguments twice")
        return name, self._scanner.said


class _ObjectScanner:
    """Takes the text of a JSON object as it comes, and nothing after its end."""

    __slots__ = ("_depth", "_is_escaped", "_is_in_string", "_pieces", "is_done")

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._depth = 0
        self._is_in_string = self._is_escaped = False
        self.is_done = False

    @property
    def said(self) -> str:
        """The object as far as it is there."""
        return "".join(self._pieces)

    def feed(self, text: str) -> str:
        """The part of `text` that belongs to the object."""
        inside = text[: self._num_inside(text)]
        self._pieces.append(inside)
        return inside

    def _num_inside(self, text: str) -> int:
        if self.is_done:
            return 0
        for index, char in enumerate(text):
            if self._is_in_string:
                if self._is_escaped:
                    self._is_escaped = False
                elif char == "\\":
                    self._is_escaped = True
                else:
                    self._is_in_string = char != '"'
            elif char == '"':
                self._is_in_string = True
            elif char in "{[":
                self._depth += 1
            elif char in "}]":
                self._depth -= 1
                if self._depth == 0:
                    self.is_done = True
                    return index + 1
        return len(text)
