r"""What an answer with tool calls looks like, as a grammar in llguidance's Lark. Pure text: compiles nothing.

    Let me look.
    <tool_call>
    {"name": "get_weather", "arguments": {"city": "Bergen"}}
    </tool_call>
    <tool_call>
    ...

A call stands between two tokens, which are named by their ids; text cannot hold them. Calls end an answer: no text
comes after them, as chat templates have no place for it in a history. Between the tokens all but the arguments is
fixed, with the line breaks and spaces of the templates, so that an answer that is sent back is made of the same tokens.
Each tool's schema is a grammar of its own: what its `$ref`s refer to stays where it was.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edge_runtime.model.tools import ToolDefinition, chosen_name

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

SPELLING: JsonCompileOptions = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""As `tojson` spells JSON, and with it the templates that models learn from; and in as few tokens as that takes."""


def tools_grammar(
    tools: Sequence[ToolDefinition],
    tool_choice: str,
    *,
    parallel: bool,
    call_ids: tuple[int, int],
    schema: str = "",
) -> str:
    """The Lark text of all answers that may be given with `tools`, of which there is at least one.

    `call_ids`: the tokens around a call; `parallel`: whether there may be several. `tool_choice` is "auto", "required"
    or "name:NAME"; with "none" there is nothing to constrain. `schema`: an answer without calls is JSON of this schema,
    and there are no words before calls.
    """
    name = chosen_name(tool_choice)
    callable_tools = [tool for tool in tools if name in (None, tool.name)]
    assert callable_tools and tool_choice != "none"
    calls = r'call ("\n" call)*' if parallel else "call"
    may_answer = tool_choice == "auto"
    answers = f"answer | {calls}" if schema else f"TEXT | TEXT {calls}"
    rules = [
        f"start: {answers if may_answer else calls}",
        "call: " + " | ".join(f"call_{number}" for number in range(len(callable_tools))),
    ]
    for number, tool in enumerate(callable_tools):
        opening = json.dumps(f'\n{{"name": "{tool.name}", "arguments": ')
        rules.append(f'call_{number}: <[{call_ids[0]}]> {opening} arguments_{number} "}}\\n" <[{call_ids[1]}]>')
        rules.append(f"arguments_{number}: %json {_schema({'type': 'object', **tool.schema})}")
    if may_answer:
        rules.append(f"answer: %json {_schema(json.loads(schema))}" if schema else r"TEXT: /(.|\n)*/")
    return "\n".join(rules) + "\n"


def _schema(schema: Mapping[str, Any]) -> str:
    return json.dumps({**schema, "x-guidance": SPELLING}, ensure_ascii=False)
