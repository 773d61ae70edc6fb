"""Tools on the wire: messages and options as callers write them, and calls as they come back."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from edge_runtime.engine.events import Delta, Finished, ImageShape, ToolCallDelta
from edge_runtime.engine.request import GenerationOptions, GenerationRequest
from edge_runtime.errors import BadParameter, BadPrompt
from edge_runtime.model.conversation import ImagePart, Message, TextPart
from edge_runtime.model.tools import ToolCall
from edge_runtime.serving import messages as wire
from edge_runtime.serving.chat import messages_of
from edge_runtime.serving.client import Client
from edge_runtime.serving.conversion import outgoing_request, request_from_wire
from tests.tools_chat import HISTORY, TOOLS

Serve = Callable[..., Any]
PICTURE = b"\x89PNG a file"
OPENAI: list[dict[str, Any]] = [
    {"role": "user", "content": "How is it there?"},
    {
        "role": "assistant",
        "content": None,
        "reasoning_content": "hm",
        "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"b": 1,  "a": "ä"}'}},
            {"id": "call_2", "type": "function", "index": 1, "function": {"name": "g", "arguments": {"z": 1, "a": 2}}},
        ],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
    {"role": "tool", "content": [{"type": "text", "text": "a screen"}, {"type": "image", "image": PICTURE}]},
]


def through_the_wire(messages: Any, **fields: Any) -> GenerationRequest:
    """A request as the server gets it."""
    outgoing = outgoing_request("r", messages, GenerationOptions.of(None, fields, "here"))
    header = wire.decode_client_message(outgoing.header)
    assert isinstance(header, wire.Generate)
    return request_from_wire(header, [memoryview(frame) for frame in outgoing.frames])


def test_dicts_as_openai_has_them() -> None:
    _, answer, first, second = messages_of(OPENAI)
    assert answer.content == ()
    assert answer.reasoning == "hm"
    assert answer.tool_calls == (
        ToolCall("call_1", "f", '{"b": 1,  "a": "ä"}'),
        ToolCall("call_2", "g", '{"z": 1, "a": 2}'),
    )
    assert (first.role, first.content, first.tool_call_id) == ("tool", (TextPart("rain"),), "call_1")
    assert second.tool_call_id == ""
    assert isinstance(second.content[1], ImagePart)


def test_a_history_with_tools_is_the_same_behind_the_wire() -> None:
    for said in (OPENAI, HISTORY):
        sent = messages_of(said)
        request = through_the_wire(said, tools=TOOLS, tool_choice={"function": {"name": "screenshot"}})
        for ours, theirs in zip(sent, request.messages, strict=True):
            assert (ours.role, ours.tool_calls, ours.tool_call_id) == (
                theirs.role,
                theirs.tool_calls,
                theirs.tool_call_id,
            )
            assert ours.reasoning == theirs.reasoning
            assert len(ours.content) == len(theirs.content)
        assert request.options.tools == TOOLS
        assert request.options.tool_choice == "name:screenshot"
        assert request.options.parallel_tool_calls


def test_who_sends_no_tools_sends_nothing_of_them() -> None:
    header = outgoing_request("r", "hi", GenerationOptions()).header
    assert b"tool" not in header
    assert b"reasoning" not in header


CALL = {"id": "1", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"role": "assistant"}, "message 1: .*role and content"),
        ({"role": "assistant", "content": None}, "message 1: .*None"),
        ({"role": "user", "content": "x", "tool_calls": [CALL]}, "message 1: .*only an answer"),
        ({"role": "assistant", "tool_calls": "f"}, "message 1: its tool_calls"),
        ({"role": "assistant", "tool_calls": ["f"]}, "message 1, tool call 1: "),
        ({"role": "assistant", "tool_calls": [CALL, {**CALL, "type": "custom"}]}, "message 1, tool call 2: .*custom"),
        ({"role": "assistant", "tool_calls": [{"id": "1"}]}, "message 1, tool call 1: .*name"),
        ({"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "f", "args": 1}}]}, "'args'"),
        ({"role": "assistant", "tool_calls": [{**CALL, "id": 7}]}, "message 1, tool call 1: .*strings"),
        ({"role": "assistant", "tool_calls": [{"name": "f", "arguments": {"a": {1}}}]}, "cannot be written as JSON"),
        ({"role": "assistant", "tool_calls": [{"name": "f", "arguments": "\ud800"}]}, "strings"),
        ({"role": "tool", "tool_call_id": 7, "content": "x"}, "message 1: tool_call_id is 7"),
        ({"role": "tool", "tool_call_id": "\ud800", "content": "x"}, "half a character"),
        ({"role": "user", "tool_call_id": "1", "content": "x"}, "message 1: tool_call_id"),
        ({"role": "user", "reasoning": "x", "content": "x"}, "message 1: reasoning"),
        ({"role": "assistant", "reasoning": "\ud800", "content": "x"}, "half a character"),
        ({"role": "function", "content": "x"}, "message 1: role 'function'"),
    ],
)
def test_what_makes_no_sense_is_refused_by_the_client(message: dict[str, Any], reason: str) -> None:
    with pytest.raises((BadPrompt, BadParameter), match=f"(?s){reason}"):
        messages_of([message])


def test_calls_on_their_way_back() -> None:
    call = ToolCall("call_x", "f", '{"a": "ä"}')
    for event in (
        Delta("r", "{", "tool_call", (1, 2), tool_call=ToolCallDelta(0, "call_x", "f")),
        Delta("r", '"a', "tool_call", (3,), tool_call=ToolCallDelta(1)),
        Finished("r", "See.", "tool_calls", tool_calls=(call,), malformed_calls=("why",)),
    ):
        assert wire.decode_server_message(wire.encode(event)) == event
    assert b"tool" not in wire.encode(Delta("r", "x"))
    answer = Finished("r", "See.", "tool_calls", "hm", tool_calls=(call,)).message
    assert answer == Message("assistant", "See.", tool_calls=[call], reasoning="hm")


def test_a_client_goes_on_with_an_answer_and_its_results(serve: Serve) -> None:
    running = serve()
    with Client(running.address) as client:
        stream = client.generate([*HISTORY[:2], Message("tool", "parts", tool_call_id="call_1")], tools=list(TOOLS))
        assert stream.result.finish_reason == "stop"
    (request,) = running.engine.requests
    assert request.messages[1].tool_calls == HISTORY[1].tool_calls
    assert request.messages[2].tool_call_id == "call_1"
    assert request.options.tools == TOOLS


def test_an_action_may_come_as_a_call() -> None:
    """Who offers the computer as a tool has its actions in the calls, and in pixels as from text."""
    call = ToolCall("call_x", "computer_use", json.dumps({"action": "left_click", "coordinate": [500, 250]}))
    shapes = (ImageShape(2000, 1000, 2000),)
    said = Finished("r", call.spelled, "stop", images=shapes).actions("qwen_computer_use")
    called = Finished("r", "", "tool_calls", images=shapes, tool_calls=(call,)).actions("qwen_computer_use")
    assert called == said
    assert len(called) == 1
