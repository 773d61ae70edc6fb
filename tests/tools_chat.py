"""A chat template with tools, written for the tests in the manner of Qwen3-VL's, and a chat that uses it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from edge_runtime.model.conversation import ImagePart, Message
from edge_runtime.model.tools import ToolCall, ToolDefinition, tool_of

TEMPLATE = """{%- macro print(content) -%}
    {%- for part in content -%}
        {{- part.text if part.type == 'text' else '<|vision_start|><|image_pad|><|vision_end|>' -}}
    {%- endfor -%}
{%- endmacro -%}
{%- if tools %}{{ '<|im_start|>system\\nTools:' }}{% for tool in tools %}{{ '\\n' ~ (tool | tojson) }}{% endfor -%}
    {{- '<|im_end|>\\n' }}{% endif -%}
{%- for message in messages -%}
    {%- set role = 'user' if message.role == 'tool' else message.role -%}
    {{- '<|im_start|>' + role + '\\n' -}}
    {{- '<tool_response>\\n' if message.role == 'tool' -}}
    {{- '<think>\\n' + message.reasoning_content + '\\n</think>\\n\\n' if message.reasoning_content -}}
    {{- print(message.content) -}}
    {{- '\\n</tool_response>' if message.role == 'tool' -}}
    {%- for call in message.tool_calls -%}
        {{- '\\n' if message.content or not loop.first -}}
        {{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' -}}
        {{- call.function.arguments if call.function.arguments is string else call.function.arguments | tojson -}}
        {{- '}\\n</tool_call>' -}}
    {%- endfor -%}
    {{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif -%}
{%- if enable_thinking %}{{ '<think>\\n' }}{% endif -%}
"""
REAL = {kind: Path(f"/work/shared/data/qwen3-vl/chat_template_{kind}.jinja") for kind in ("instruct", "thinking")}
"""Qwen3-VL's own templates, where they are at hand: they are not ours to copy."""

WEATHER = tool_of(
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Das Wetter in <Köln> & 'anderswo'",
            "parameters": {
                "type": "object",
                "properties": {"zone": {"type": "string"}, "city": {"type": "string", "enum": ["Köln", "東京"]}},
                "required": ["city"],
            },
        },
    }
)
SCREENSHOT = ToolDefinition("screenshot")
TOOLS = (WEATHER, SCREENSHOT)

PIXELS = np.zeros((2, 2, 3), np.uint8)


def call(arguments: object, name: str = "get_weather", call_id: str = "call_1") -> ToolCall:
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return ToolCall(call_id, name, text)


def spelled(arguments: str, name: str = "get_weather") -> str:
    """A call as a template prints it."""
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


HISTORY = (
    Message("user", "How is it there?"),
    Message("assistant", "Let me see.", tool_calls=[call({"zone": "b", "city": "Köln"}), call({}, "screenshot", "2")]),
    Message("tool", "rain", tool_call_id="call_1"),
    Message("tool", ["a screen: ", ImagePart(PIXELS)], tool_call_id="2"),
)
