"""What a chat template does with tools: tried once, when it is loaded, as its content formats are. Knows no tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from edge_runtime.model.tools import ToolCall, ToolDefinition

TryRender = Callable[[list[dict[str, Any]], list[dict[str, Any]] | None], str | None]
"""Renders messages and tools, both as dicts; None where the template refuses them."""
ContentFormat = Literal["parts", "string"]

_TOOL = ToolDefinition("edge_tool", "Edge <tells>.", '{"type": "object", "properties": {"edge_key": {"type": "null"}}}')
_CALL = ToolCall("call_edge", "edge_call", '{"edge_argument": "edge <value>"}')
STRANGE = "edge_part"
"""A key that no template asks a part for: where it is printed, the part itself was."""


@dataclass(frozen=True, slots=True)
class ToolUse:
    """What is not lost of what a template is given."""

    prints_tools: bool
    """Definitions."""
    prints_calls: bool
    """Calls in an answer, and the messages that answer them."""
    content: ContentFormat = "parts"
    """What such a message must hold where all of it is text; only as parts it may have pictures."""


def find_tool_use(render: TryRender, form: ContentFormat) -> ToolUse:
    """Try the template behind `render`, which takes what others say in `form`."""
    printed = render([_said("user", form)], [_TOOL.as_dict()]) or ""
    prints_tools = "edge_tool" in printed and '"edge_key"' in printed
    forms: tuple[ContentFormat, ContentFormat] = ("parts", "string")
    for own in forms:
        answer = {"role": "assistant", "content": "" if form == "string" else [], "tool_calls": [_CALL.as_dict()]}
        printed = render([_said("user", form), answer, _said("tool", own)], None) or ""
        told = ("edge_call", '{"edge_argument": "edge <value>"}', "edge tool text.")
        if all(text in printed for text in told) and STRANGE not in printed:
            return ToolUse(prints_tools, prints_calls=True, content=own)
    return ToolUse(prints_tools, prints_calls=False)


def _said(role: str, form: ContentFormat) -> dict[str, Any]:
    text = f"edge {role} text."
    return {"role": role, "content": text if form == "string" else [{"type": "text", "text": text, STRANGE: STRANGE}]}
