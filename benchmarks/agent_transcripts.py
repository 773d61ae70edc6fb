"""What agents say, turn by turn: written by hand after transcripts of computer-use models, with made-up tasks.

Each turn is what the user's side says (beside a screenshot) and what the model answers. Actions repeat, coordinates
mostly do not, names that were read on the screen come again: what a lookup finds in real loops, and what it does not.

`agent_transcripts.json` has the same as tokens of Qwen's vocabulary, with the chat template's around them: per loop
first those before the first question, then a question and an answer in turn. For bundles that have only its size.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple


class Turn(NamedTuple):
    """One step of a loop."""

    question: str
    answer: str


SYSTEM = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{"type": "function", "function": {"name": "computer_use", "description": "Use a mouse and keyboard to interact with a \
computer, and take screenshots.", "parameters": {"type": "object", "properties": {"action": {"type": "string", "enum": \
["key", "type", "mouse_move", "left_click", "left_click_drag", "right_click", "double_click", "scroll", "wait", \
"terminate"]}, "keys": {"type": "array", "items": {"type": "string"}}, "text": {"type": "string"}, "coordinate": \
{"type": "array", "items": {"type": "number"}}, "pixels": {"type": "number"}, "time": {"type": "number"}, "status": \
{"type": "string", "enum": ["success", "failure"]}}, "required": ["action"]}}}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call>"""


def _call(say: str, **arguments: object) -> str:
    body = json.dumps({"name": "computer_use", "arguments": arguments})
    return f"Action: {say}\n<tool_call>\n{body}\n</tool_call>"


_TASK = "Please enter the three invoices from the mail into the expenses form of the intranet, one after the other."
_NEXT = "The action was done. This is the screen now. What is the next action?"


def _invoice(number: str, supplier: str, amount: str, row: int) -> list[str]:
    """The steps for one invoice; its fields stand where they stood, but for the scrolling."""
    y = 212 + 3 * row
    return [
        _call("Click the New expense button above the table.", action="left_click", coordinate=[871, 148 + row]),
        _call("Click the Supplier field.", action="left_click", coordinate=[412, y]),
        _call(f"Type the supplier's name, {supplier}.", action="type", text=supplier),
        _call("Click the Invoice number field.", action="left_click", coordinate=[412, y + 61]),
        _call(f"Type the invoice number, {number}.", action="type", text=number),
        _call("Click the Amount field.", action="left_click", coordinate=[412, y + 122]),
        _call(f"Type the amount, {amount}.", action="type", text=amount),
        _call("Click the Save button below the form.", action="left_click", coordinate=[698, y + 340]),
    ]


_ANSWERS = [
    _call("Open the mail with the subject Invoices of March.", action="double_click", coordinate=[318, 264]),
    _call("Scroll down to read the three invoices.", action="scroll", pixels=-480),
    _call("Switch to the tab Intranet - Expenses.", action="left_click", coordinate=[431, 28]),
    *_invoice("2026-0317", "Nordwind Papier GmbH", "1,284.50", 0),
    _call("Wait until the table has the new expense.", action="wait", time=2),
    *_invoice("RE-99812", "Kessler & Sons Catering", "312.00", 1),
    _call("Wait until the table has the new expense.", action="wait", time=2),
    *_invoice("A-20260329", "Bluefield Cloud Services Ltd", "2,047.99", 2),
    _call("The three invoices are in the table, so the task is done.", action="terminate", status="success"),
]

TOOL_CALLS: tuple[Turn, ...] = tuple(Turn(_NEXT if number else _TASK, answer) for number, answer in enumerate(_ANSWERS))
"""A loop of 30 steps with a sentence and a tool call in each, as Qwen3-VL's cookbook for computers has them."""

PROSE: tuple[Turn, ...] = (
    Turn(
        "Why does the kettle on the picture whistle?",
        "Steam that leaves the spout passes two thin plates with a hole in each. Between them the jet gets unstable, "
        "rolls up into small vortices, and every vortex that meets the second plate sends a pulse of pressure back. "
        "Once these pulses arrive at a steady rate, you hear a tone; its pitch climbs while the water boils harder, "
        "because quicker steam makes vortices more often. Lift the cap and the sound is gone.",
    ),
    Turn(
        "And what would change at the top of a mountain?",
        "Water boils at a lower temperature up there, some 85 degrees at 4,500 metres, so less heat reaches your tea. "
        "Thinner air carries sound a bit less well, yet vapour escapes more readily, hence the whistle starts earlier. "
        "Musicians would notice hardly any difference in pitch: how fast sound travels depends on warmth and on what a "
        "gas consists of, not on its pressure.",
    ),
)
"""Nothing that is said twice: what drafts cost where there is nothing to gain."""

LOOPS: Mapping[str, tuple[str, tuple[Turn, ...]]] = {
    "tool calls": (SYSTEM, TOOL_CALLS),
    "prose": ("You are a helpful assistant.", PROSE),
}
"""System prompt and turns of each."""

Rows = list[list[int]]


def qwen_tokens(name: str) -> Rows:
    """That loop in Qwen's tokens."""
    loops: dict[str, Rows] = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
    return loops[name]


def tokens(name: str, encode: Callable[[str], list[int]]) -> Rows:
    """That loop in the tokens of another vocabulary, which has the same control tokens."""
    system, turns = LOOPS[name]
    rows = [f"<|im_start|>system\n{system}<|im_end|>\n"]
    for turn in turns:
        rows += [f"<|im_start|>user\n{turn.question}<|im_end|>\n<|im_start|>assistant\n", f"{turn.answer}<|im_end|>"]
    return [encode(row) for row in rows]
