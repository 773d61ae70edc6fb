"""Definitions of tools and choices among them: what is taken, and what is refused."""

from __future__ import annotations

import json

import pytest

from edge_runtime.errors import BadParameter
from edge_runtime.model.tools import (
    MAX_SCHEMA_BYTES,
    NO_PARAMETERS,
    ToolCall,
    ToolDefinition,
    check_tools,
    choice_of,
    tool_of,
)

SCHEMA = {"type": "object", "properties": {"z": {"type": "string", "enum": ["ä<&>'\""]}, "a": {"type": "integer"}}}


@pytest.mark.parametrize(
    "given",
    [
        {"name": "f", "description": "d", "parameters": SCHEMA},
        {"type": "function", "function": {"name": "f", "description": "d", "parameters": SCHEMA, "strict": True}},
        {"type": "function", "name": "f", "description": "d", "parameters": json.dumps(SCHEMA, ensure_ascii=False)},
        ToolDefinition("f", "d", json.dumps(SCHEMA, ensure_ascii=False)),
    ],
)
def test_a_tool_is_the_same_in_every_form_it_is_given_in(given: object) -> None:
    tool = tool_of(given)
    assert tool == ToolDefinition("f", "d", json.dumps(SCHEMA, ensure_ascii=False))
    function = tool.as_dict()["function"]
    assert function == {"name": "f", "description": "d", "parameters": SCHEMA}
    assert list(function["parameters"]["properties"]) == ["z", "a"]


def test_a_tool_without_parameters_takes_an_empty_object() -> None:
    assert tool_of({"name": "f"}) == tool_of({"function": {"name": "f", "parameters": None}}) == ToolDefinition("f")
    assert ToolDefinition("f").schema == json.loads(NO_PARAMETERS)
    assert "description" not in ToolDefinition("f").as_dict()["function"]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (7, "of type int"),
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": None}, "name"),
        ({"name": 'f", "arguments": '}, "name"),
        ({"name": "f\n"}, "name"),
        ({"name": "a" * 129}, "name"),
        ({"name": "f", "description": "d" * 20_000}, "description"),
        ({"name": "f", "description": "\ud800"}, "description"),
        ({"name": "f", "returns": {}}, "'returns'"),
        ({"type": "web_search"}, "web_search"),
        ({"type": "function", "function": "f"}, "wanted a dict"),
        ({"name": "f", "parameters": []}, "JSON schema"),
        ({"name": "f", "parameters": "{"}, "no JSON"),
        ({"name": "f", "parameters": '{"minimum": NaN}'}, "no JSON"),
        ({"name": "f", "parameters": "[" * 50_000}, "no JSON"),
        ({"name": "f", "parameters": {"a": {1, 2}}}, "cannot be written as JSON"),
        ({"name": "f", "parameters": "true"}, "JSON schema"),
        ({"name": "f", "parameters": {"type": "array"}}, "type is 'array'"),
        ({"name": "f", "parameters": {"description": "d" * MAX_SCHEMA_BYTES}}, "65536 bytes"),
        ({"name": "f", "parameters": {"description": "ä" * (MAX_SCHEMA_BYTES // 2)}}, "65536 bytes"),
    ],
)
def test_what_is_no_tool_is_refused(given: object, reason: str) -> None:
    with pytest.raises(BadParameter, match=reason):
        tool_of(given)


@pytest.mark.parametrize("choice", ["auto", "none", "required", "name:f", "name:auto"])
def test_choices_among_tools_that_are_there(choice: str) -> None:
    check_tools((ToolDefinition("f"), ToolDefinition("auto")), choice)


@pytest.mark.parametrize(
    ("tools", "choice", "reason"),
    [
        ("ff", "auto", "two tools"),
        ("fg", "name:h", "known are f, g"),
        ("fg", "f", "tool_choice"),
        ("fg", "name:", "known are f, g"),
        ("", "name:f", "no tools"),
        ("", "required", "no tools"),
    ],
)
def test_a_choice_of_what_is_not_there_is_refused(tools: str, choice: str, reason: str) -> None:
    with pytest.raises(BadParameter, match=reason):
        check_tools([ToolDefinition(name) for name in tools], choice)


def test_a_choice_as_a_dict_names_a_function() -> None:
    assert choice_of({"type": "function", "function": {"name": "f"}}) == choice_of({"name": "f"}) == "name:f"
    assert choice_of("auto") == "auto"
    for wrong in ({}, {"type": "mcp", "name": "f"}, {"function": "f"}, {"function": {"name": 1}}):
        with pytest.raises(BadParameter, match="tool_choice"):
            choice_of(wrong)


@pytest.mark.parametrize(
    ("arguments", "value"),
    [('{"b": 1, "a": "ä"}', {"b": 1, "a": "ä"}), ('{"b": 1', '{"b": 1'), ("[1]", "[1]"), ("", ""), ("NaN", "NaN")],
)
def test_arguments_are_an_object_or_stay_text(arguments: str, value: object) -> None:
    assert ToolCall("call_1", "f", arguments).value() == value
