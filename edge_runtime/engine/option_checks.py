"""What the fields of a request's options take: checks by their annotations, and what a refusal says.

Not `msgspec.Meta(ge=, le=)`: msgspec would refuse in words of its own, and the wire with another code.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from itertools import islice
from math import inf
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

import msgspec

from edge_runtime.errors import BadParameter, RequestError
from edge_runtime.model.tools import MAX_TOOLS, ToolDefinition, json_text, tool_of

_RANGES: Mapping[str, tuple[float, float]] = {
    "temperature": (0.0, 100.0),
    "top_k": (0, 2**31),
    "top_p": (1e-6, 1.0),
    "min_p": (0.0, 1.0),
    "repetition_penalty": (1e-3, 100.0),
    "presence_penalty": (-100.0, 100.0),
    "frequency_penalty": (-100.0, 100.0),
    "seed": (0, 2**63 - 1),
    "max_tokens": (1, 2**31),
    "num_logprobs": (0, 20),
    "thinking_budget": (0, 2**31),
}
"""Least and largest value of every number, both allowed."""
EFFORTS: Mapping[str, int | None] = {"none": 0, "minimal": 128, "low": 512, "medium": 2048, "high": None}
"""What each means as a `thinking_budget`."""
_WORDS: Mapping[str, tuple[str, ...]] = {"effort": tuple(EFFORTS)}
"""Strings that are one of a few, or empty."""
MAX_SALT_LENGTH = 256
_MAX_LENGTHS = {"cache_salt": MAX_SALT_LENGTH, "schema": 1 << 16, "regex": 1 << 12, "lark": 1 << 16, "actions": 64}
"""Characters of a string."""
_MAX_STRINGS = {"choice": 1024, "tools": MAX_TOOLS}
"""Of a list; 16 of any other."""
_SHOWN = 80
"""Characters of a value that a refusal repeats."""


def settle(options: msgspec.Struct, of: type[msgspec.Struct]) -> None:
    """Check the fields that `options` has of `of`, and put into them what stands for what they were given."""
    for name, (kind, may_be_none) in kinds(of).items():
        value = getattr(options, name)
        if value is not None or not may_be_none:
            settled = _settled(name, value, kind, may_be_none)
            if settled is not value:
                msgspec.structs.force_setattr(options, name, settled)


@cache
def kinds(of: type[msgspec.Struct]) -> dict[str, tuple[Any, bool]]:
    """Of each field its type, and whether it may be None instead, as its annotation has them."""
    hints = get_type_hints(of)
    found = {}
    for name in of.__struct_fields__:
        kind = hints[name]
        if may_be_none := NoneType in get_args(kind):
            (kind,) = set(get_args(kind)) - {NoneType}
        found[name] = (kind, may_be_none)
    return found


def _settled(name: str, value: Any, kind: Any, may_be_none: bool = False) -> Any:
    """What a field of type `kind` keeps of `value`. Raises `BadParameter`."""
    if get_origin(kind) is tuple:
        return _settled_list(name, value, get_args(kind)[0])
    if kind is str:
        text, most = plain_text(value, name, BadParameter), _MAX_LENGTHS.get(name, inf)
        if len(text) > most:
            raise BadParameter(f"{name} has {len(text)} characters; at most {most} are taken")
        if text and text not in _WORDS.get(name, (text,)):
            raise BadParameter(f"{name} is {shown(text)}; it must be one of {', '.join(_WORDS[name])}")
        return text
    if kind is ToolDefinition:
        return tool_of(value)
    if kind is bool:
        wanted, fits = "true, false or left out" if may_be_none else "true or false", isinstance(value, bool)
    elif kind in (int, float):
        low, high = _RANGES.get(name, (-inf, inf))
        wanted = f"a whole number from {low} to {high}" if kind is int else f"a number from {low:g} to {high:g}"
        is_number = isinstance(value, (int, kind)) and not isinstance(value, bool)
        fits = is_number and low <= value <= high
    else:
        wanted, fits = f"of type {kind}", _converts(value, kind)
    if not fits:
        raise BadParameter(f"{name} is {shown(value)}; it must be {wanted}")
    return float(value) if isinstance(value, float) else value  # of numpy's, which no encoder takes, Python's


def _settled_list(name: str, values: Any, kind: Any) -> tuple[Any, ...]:
    """A tuple of any list; None is an empty one. A string is none: it would be taken letter by letter."""
    what = "string" if kind is str else kind.__name__
    if values is None:
        return ()
    if not isinstance(values, Iterable) or isinstance(values, (str, bytes, bytearray, memoryview, Mapping)):
        raise BadParameter(f"{name} is {shown(values)}; wanted a list of {what}s")
    place = f"a {name} string" if kind is str else name
    most = _MAX_STRINGS.get(name, 16)
    settled = tuple(_settled(place, value, kind) for value in islice(values, most + 1))
    if len(settled) > most or "" in settled:
        raise BadParameter(f"{name} takes a list of up to {most} {what}s, none of them empty")
    return settled


def _converts(value: object, kind: Any) -> bool:
    try:
        return bool(msgspec.convert(value, kind) == value)
    except msgspec.ValidationError:
        return False


def schema_text(schema: Any) -> Any:
    """The text of a JSON schema that came as an object, or as a class that tells its own, as pydantic's do."""
    tell = getattr(schema, "model_json_schema", None)
    if callable(tell):
        schema = tell()
    if not isinstance(schema, (Mapping, bool)):
        return schema
    return json_text(schema, "schema")


def plain_text(text: object, what: str, refusal: type[RequestError]) -> str:
    """`text`, which is what `what` says. Raises `refusal` for what is no string, or none that has an encoding."""
    if not isinstance(text, str):
        raise refusal(f"{what} is {type_of(text)}; wanted a string")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise refusal(f"{what} holds half a character (U+{ord(text[error.start]):04X}) at {error.start}") from error
    return str.__str__(text)  # of a subclass, which no encoder takes, the plain string


def shown(value: object) -> str:
    """As much of a value as a refusal repeats; Python itself refuses to spell thousands of digits."""
    try:
        return repr(value)[:_SHOWN]
    except ValueError:
        return f"a value {type_of(value)}, too long to show"


def type_of(value: object) -> str:
    """What a refusal says of a value of the wrong type."""
    return "None" if value is None else f"of type {type(value).__name__}"
