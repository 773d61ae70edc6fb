"""The grammar of tool calls, compiled by llguidance: which answers it lets through."""

from __future__ import annotations

import json
from pathlib import Path

import llguidance
import pytest

from edge_runtime.engine.tool_grammar import tools_grammar
from edge_runtime.model.tokenizer import Tokenizer
from edge_runtime.model.tools import ToolDefinition

PLACE = {"type": "object", "properties": {"x": {"type": "integer", "minimum": 0, "maximum": 999}}, "required": ["x"]}
WEATHER = ToolDefinition(
    "get_weather",
    "The weather <&> 'now' in Köln",
    json.dumps(
        {
            "type": "object",
            "properties": {"city": {"$ref": "#/$defs/city"}, "days": {"type": "integer"}},
            "required": ["city"],
            "additionalProperties": False,
            "$defs": {"city": {"type": "string"}},
        }
    ),
)
CLICK = ToolDefinition("mouse.click", "", json.dumps(PLACE | {"additionalProperties": False}))
NOW = ToolDefinition("now")
TOOLS = (WEATHER, CLICK, NOW)


def call(name: str, arguments: str) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


SUNNY = call("get_weather", '{"city": "Köln \\"2\\"", "days": 3}')
CLICKED = call("mouse.click", '{"x": 40}')


class Walker:
    """Walks texts through grammars."""

    def __init__(self, bundle: Path) -> None:
        self.tokenizer = Tokenizer(bundle / "tokenizer.json")
        self.guide = llguidance.LLTokenizer((bundle / "tokenizer.json").read_text(encoding="utf-8"), n_vocab=1024)
        (start,), (end,) = map(self.tokenizer.encode, ("<tool_call>", "</tool_call>"))
        self.call_ids = int(start), int(end)

    def takes(
        self, text: str, choice: str, *, parallel: bool = True, tools: tuple[ToolDefinition, ...] = TOOLS
    ) -> bool:
        """Whether `text`, whole, is an answer."""
        grammar = tools_grammar(tools, choice, parallel=parallel, call_ids=self.call_ids)
        assert llguidance.LLMatcher.validate_grammar(grammar, self.guide) == ""
        matcher = llguidance.LLMatcher(self.guide, grammar, log_level=0)
        ids = self.tokenizer.encode(text).tolist()
        return matcher.validate_tokens(ids) == len(ids) and matcher.consume_tokens(ids) and matcher.is_accepting()


@pytest.fixture(scope="module")
def walker(tiny_bundle: Path) -> Walker:
    return Walker(tiny_bundle)


GOOD = {
    "": "a",
    "Sunny.\nI think": "a",
    SUNNY: "arn",
    f"Let me look.\n{SUNNY}": "a",
    CLICKED: "ar",
    call("now", "{}"): "ar",
    f"{SUNNY}\n{CLICKED}\n{SUNNY}": "ar",
    f"{SUNNY}\n{SUNNY}": "arn",
}
"""Answers, and with which choices they may be given: auto, required, the name of the first tool."""


@pytest.mark.parametrize("text", GOOD)
@pytest.mark.parametrize(("letter", "choice"), [("a", "auto"), ("r", "required"), ("n", "name:get_weather")])
def test_what_may_be_said_depends_on_the_choice(walker: Walker, text: str, letter: str, choice: str) -> None:
    assert walker.takes(text, choice) == (letter in GOOD[text])
    several = text.count("<tool_call>") > 1
    assert walker.takes(text, choice, parallel=False) == (letter in GOOD[text] and not several)


@pytest.mark.parametrize(
    "text",
    [
        SUNNY + "\nDone.",
        SUNNY + SUNNY,
        "<tool_call>",
        SUNNY.removesuffix("</tool_call>"),
        "<think>" + SUNNY,
        SUNNY.replace("get_weather", "set_weather"),
        SUNNY.replace('"name"', '"tool"'),
        SUNNY.replace("city", "town"),
        SUNNY.replace("3", '"3"'),
        SUNNY.replace('"days"', '"more"'),
        SUNNY.replace('"Köln \\"2\\""', "<tool_call>"),
        SUNNY.replace("Köln", "<tool_call>"),
        CLICKED.replace("40", "1000"),
        CLICKED.replace("40", "40, 41"),
        call("now", "[]"),
        call("now", "null"),
        call("now", ""),
        call("now", "{"),
    ],
)
@pytest.mark.parametrize("choice", ["auto", "required"])
def test_a_malformed_call_cannot_be_said(walker: Walker, text: str, choice: str) -> None:
    assert not walker.takes(text, choice)


def test_arguments_are_spelled_as_templates_spell_them(walker: Walker) -> None:
    assert not walker.takes(SUNNY.replace('": ', '":'), "required")
    assert not walker.takes(SUNNY.replace(", ", ",\n"), "required")


@pytest.mark.parametrize(
    "schema",
    ["{}", '{"properties": {"x": {"type": "integer"}}}', '{"$ref": "#/$defs/a", "$defs": {"a": {"type": "object"}}}'],
)
def test_arguments_are_an_object_whatever_the_schema_leaves_open(walker: Walker, schema: str) -> None:
    tools = (ToolDefinition("f", "", schema),)
    assert walker.takes(call("f", '{"x": 1}'), "required", tools=tools)
    assert not any(walker.takes(call("f", value), "required", tools=tools) for value in ("1", '"{}"', "[{}]"))


def test_as_many_tools_as_may_be_given_compile(walker: Walker) -> None:
    tools = tuple(ToolDefinition(f"f{number}", "", CLICK.parameters) for number in range(128))
    assert walker.takes(call("f127", '{"x": 1}'), "auto", tools=tools)
    assert not walker.takes(call("f128", '{"x": 1}'), "auto", tools=tools)
