"""What a model may call, and what it has called: names and JSON as text. Knows nothing of tokens, templates or engines.

JSON stays the text that somebody wrote: its key order, its spelling of numbers and its non-ASCII are the writer's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from typing import Any, NoReturn, TypeGuard

import msgspec

from edge_runtime.errors import BadParameter

CALL_START, CALL_END = "<tool_call>", "</tool_call>"
"""The tokens that Qwen's models put around a call."""
MAX_TOOLS = 128
MAX_SCHEMA_BYTES = 64 * 1024
MAX_NESTING = 64
"""Lists and objects in each other."""
_TOO_DEEP = f"it has more than {MAX_NESTING} lists and objects in each other"
_MAX_DESCRIPTION = 16 * 1024
_NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,128}")
NO_PARAMETERS = '{"type": "object", "properties": {}}'
"""The schema of a tool that takes none."""


class ToolDefinition(msgspec.Struct, frozen=True):
    """A function that the model may ask its caller to call.

    `parameters` is the JSON schema, as JSON text, of the object that its arguments are.
    """

    name: str
    description: str = ""
    parameters: str = NO_PARAMETERS

    def __post_init__(self) -> None:
        """Raise `BadParameter` for a name that no template could print safely, or parameters of another form."""
        _check_name("a tool", self.name)
        if not _is_text(self.description) or len(self.description) > _MAX_DESCRIPTION:
            raise BadParameter(
                f"the description of the tool {self.name} must be a string of at most {_MAX_DESCRIPTION} characters"
            )
        _check_schema(self.name, self.parameters)

    @property
    def schema(self) -> dict[str, Any]:
        """The parameters as what their JSON says; keys in order."""
        schema: dict[str, Any] = json.loads(self.parameters)
        return schema

    def mapped(self, change: Callable[[str], str]) -> ToolDefinition:
        """With every string but its name changed, keys of the schema among them."""
        changed = copy(self)  # its size has been judged
        msgspec.structs.force_setattr(changed, "description", change(self.description))
        msgspec.structs.force_setattr(changed, "parameters", _dumped(_mapped(self.schema, change)))
        return changed

    def as_dict(self) -> dict[str, Any]:
        """As OpenAI's API has it, and with it the templates."""
        described = {"description": self.description} if self.description else {}
        return {"type": "function", "function": {"name": self.name, **described, "parameters": self.schema}}


class ToolCall(msgspec.Struct, frozen=True):
    """A tool that the model wants called: which one, and with what.

    `arguments` is JSON text as the model wrote it; `id` tells this call from others, for the message that answers it.
    """

    id: str
    name: str
    arguments: str

    def __post_init__(self) -> None:
        """Raise `BadParameter` for a name that no template could print safely, or what is no text."""
        _check_name("a tool call", self.name)
        if not all(map(_is_text, (self.id, self.arguments))):
            raise BadParameter(f"a call of the tool {self.name} needs an id and arguments that are strings")

    def as_dict(self) -> dict[str, Any]:
        """As templates take it: arguments as what their JSON says, or as text where that is none."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.value()}}

    @property
    def spelled(self) -> str:
        """As models write it."""
        return f'{CALL_START}\n{{"name": "{self.name}", "arguments": {self.arguments}}}\n{CALL_END}'

    def mapped(self, change: Callable[[str], str]) -> ToolCall:
        """With every string of its arguments changed, keys among them."""
        value = self.value()
        arguments = change(value) if isinstance(value, str) else _dumped(_mapped(value, change))
        return ToolCall(self.id, self.name, arguments)

    def value(self) -> Any:
        """The arguments as what their JSON says; the text itself where it says no object."""
        try:
            value = json_value(self.arguments)
        except ValueError:
            return self.arguments
        return value if isinstance(value, dict) else self.arguments


def strings_in(value: Any) -> Iterator[str]:
    """Every string in what JSON says, keys among them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from strings_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings_in(inner)


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {change(key): _mapped(inner, change) for key, inner in value.items()}
    return [_mapped(inner, change) for inner in value] if isinstance(value, list) else value


def _dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def check_tools(tools: Sequence[ToolDefinition], tool_choice: str) -> None:
    """Raise `BadParameter` for a name that two of them have, and for a choice of what is not there.

    `tool_choice` is "auto", "none", "required", or "name:" and the name of the one to call.
    """
    names = [tool.name for tool in tools]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise BadParameter(f"two tools have the name {twice!r}; give each its own")
    chosen = chosen_name(tool_choice)
    if chosen is None and tool_choice not in ("auto", "none", "required"):
        raise BadParameter(f"tool_choice is {tool_choice!r:.80}; it must be auto, none, required, or name:NAME")
    if chosen is not None and chosen not in names:
        raise BadParameter(f"tool_choice names the tool {chosen!r:.80}, and there is none; {_known(names)}")
    if tool_choice == "required" and not tools:
        raise BadParameter("tool_choice is required, and there are no tools; give some, or leave it out")


def chosen_name(tool_choice: str) -> str | None:
    """The one tool that a choice names, if it names one."""
    kind, colon, name = tool_choice.partition(":")
    return name if colon and kind == "name" else None


def tool_of(value: object) -> ToolDefinition:
    """The definition that a caller gave: as one of ours, or as a dict, also as `{"type": "function", "function": ...}`.

    In a dict the parameters may be a dict, too. Raises `BadParameter`.
    """
    if isinstance(value, ToolDefinition):
        return value
    if not isinstance(value, Mapping):
        raise BadParameter(f"a tool is of type {type(value).__name__}; wanted a ToolDefinition, or a dict that is one")
    if "function" in value:
        _check_keys(value, ("type", "function"))
        value = value["function"]
        if not isinstance(value, Mapping):
            raise BadParameter(f"the function of a tool is of type {type(value).__name__}; wanted a dict")
    # `strict` asks for arguments that keep to the schema: they always do.
    _check_keys(value, ("type", "name", "description", "parameters", "strict"))
    parameters = value.get("parameters")
    return ToolDefinition(
        value.get("name", ""),
        value.get("description") or "",
        NO_PARAMETERS if parameters is None else json_text(parameters, "the parameters of a tool"),
    )


def json_text(value: object, what: str) -> str:
    """JSON as text; a string is taken to be that already. Raises `BadParameter` for `what` cannot be said so."""
    if isinstance(value, str):
        return value
    try:
        return _dumped(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadParameter(f"{what} cannot be written as JSON: {error}") from error


def choice_of(value: object) -> object:
    """`tool_choice` as a caller gave it; OpenAI's dict that names a function as the string that does so here."""
    if not isinstance(value, Mapping):
        return value
    named = value.get("function", value)
    name = named.get("name") if isinstance(named, Mapping) else None
    if value.get("type", "function") != "function" or not isinstance(name, str):
        raise BadParameter(f"tool_choice is {value!r:.80}; as a dict it names a function")
    return f"name:{name}"


def _check_keys(given: Mapping[Any, Any], known: Sequence[str]) -> None:
    unknown = [str(key) for key in given if key not in known]
    if unknown:
        raise BadParameter(f"the key {unknown[0]!r:.80} of a tool is not understood; known are {', '.join(known)}")
    if given.get("type", "function") != "function":
        raise BadParameter(f"a tool is of the type {given['type']!r:.80}; only functions can be called")


def _check_name(what: str, name: object) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise BadParameter(f"{what} has the name {name!r:.80}; wanted up to 128 letters, digits and any of _ - . : /")


def json_value(text: str) -> Any:
    """What JSON text says; keys in order. Raises `ValueError` for what is none, or too deep in itself."""
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    level = [value]
    for _ in range(MAX_NESTING + 1):
        level = [inner for one in level if isinstance(one, (dict, list)) for inner in _inside(one)]
        if not level:
            return value
    raise ValueError(_TOO_DEEP)


def _inside(value: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _is_text(value: object) -> TypeGuard[str]:
    """Whether it is a string that has an encoding."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def _check_schema(name: str, parameters: object) -> None:
    wanted = f"the parameters of the tool {name} must be a JSON schema of an object, as JSON text"
    if not _is_text(parameters):
        raise BadParameter(f"{wanted}; they are {parameters!r:.80}")
    if len(parameters.encode()) > MAX_SCHEMA_BYTES:
        raise BadParameter(f"{wanted} of at most {MAX_SCHEMA_BYTES} bytes; leave out what the model need not know")
    try:
        schema = json_value(parameters)
    except ValueError as error:
        raise BadParameter(f"{wanted}; they are no JSON: {error}") from error
    if not isinstance(schema, dict):
        raise BadParameter(f"{wanted}; they are {parameters!r:.80}")
    if schema.get("type", "object") != "object":
        raise BadParameter(f"{wanted}; their type is {schema['type']!r:.80}")


def _known(names: Sequence[str]) -> str:
    return f"known are {', '.join(names)}" if names else "no tools were given"
