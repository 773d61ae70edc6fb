"""Answers as models give them, and what they mean; every liberty of docs/actions.md, and what is none."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime import actions
from edge_runtime.actions import Action
from edge_runtime.actions.parse import MAX_CHARS
from edge_runtime.errors import BadAction


def call(arguments: object, name: str = "computer_use") -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def click(x: float, y: float, divisor: int = 1000) -> Action:
    return Action("click", point=(x, y), divisor=divisor)


AS_THE_FORMAT_HAS_IT = [
    (
        "qwen_mobile_use",
        "Thought: The search bar is at the top {see}.\nAction: Tap it.\n"
        + call({"action": "click", "coordinate": [447, 81]}, "mobile_use"),
        click(447, 81, 999),
    ),
    (
        "qwen_mobile_use",
        call({"action": "swipe", "coordinate": [500, 800], "coordinate2": [500, 200]}, "mobile_use"),
        Action("swipe", point=(500, 800), point2=(500, 200), divisor=999),
    ),
    (
        "qwen_mobile_use",
        call({"action": "system_button", "button": "Back"}, "mobile_use"),
        Action("press", keys=("back",)),
    ),
    (
        "qwen_mobile_use",
        call({"action": "key", "text": "volume_up"}, "mobile_use"),
        Action("press", keys=("volume_up",)),
    ),
    ("qwen_computer_use", call({"action": "scroll", "pixels": -5}), Action("scroll", direction="down", amount=5)),
    ("qwen_computer_use", call({"action": "hscroll", "pixels": 5}), Action("scroll", direction="right", amount=5)),
    ("qwen_computer_use", call({"action": "scroll", "pixels": 0}), Action("scroll", amount=0)),
    ("qwen_computer_use", call({"action": "wait", "time": 2.5}), Action("wait", seconds=2.5)),
    (
        "qwen_computer_use",
        call({"action": "left_click_drag", "coordinate": [1, 2]}),
        Action("drag", point2=(1, 2), divisor=1000),
    ),
    ("qwen_computer_use", call({"action": "terminate", "status": "failure"}), Action("failed")),
    ("qwen_computer_use", call({"action": "terminate", "status": "success"}), Action("done")),
    ("gui_owl", call({"action": "interact", "text": "Which one?"}), Action("ask_user", text="Which one?")),
    ("gui_owl", call({"action": "left_click"}), Action("click")),
    ("evocua", call({"action": "key_down", "keys": ["shift"]}), Action("key_down", keys=("shift",))),
    (
        "mai_ui",
        "<thinking>\nI see [1, 2].\n</thinking>\n" + call({"action": "swipe", "direction": "up"}, "mobile_use"),
        Action("swipe", direction="up"),
    ),
    ("mai_ui", call({"action": "terminate", "status": "fail"}, "mobile_use"), Action("failed")),
    (
        "mai_ui_point",
        '<grounding_think>[3] (4, 5)</grounding_think>\n<answer>\n{"coordinate": [512,30]}\n</answer>',
        Action("locate", point=(512, 30), divisor=999),
    ),
    (
        "ui_venus",
        "<think>\nhm\n</think>\n<action>Click(box=(868,487))</action>\n<conclusion>It opens.</conclusion>",
        click(868, 487),
    ),
    ("ui_venus", r"<action>Type(content='it\'s \"a\\b\"\n')</action>", Action("type", text='it\'s "a\\b"\n')),
    ("ui_venus", "<action>PressRecent()</action>", Action("press", keys=("recent",))),
    ("ui_venus", "<action>Finished(content='12 €')</action>", Action("done", text="12 €")),
    (
        "ui_venus",
        "<action>Scroll(start=(500,800), end=(500,200))</action>",
        Action("swipe", point=(500, 800), point2=(500, 200), divisor=1000),
    ),
    ("ui_venus_web", "<action>Scroll(direction='down')</action>", Action("scroll", direction="down")),
    ("ui_venus_web", "<action>Launch(url='https://a.b')</action>", Action("open", text="https://a.b")),
    ("ui_venus_web", "<action>Hotkey(keys=['ctrl', 'c'])</action>", Action("press", keys=("ctrl", "c"))),
    ("ui_venus_point", "[10,990]", Action("locate", point=(10, 990), divisor=1000)),
    ("ui_venus_point", "[-1,-1]", Action("refuse")),
    (
        "step_gui",
        "<THINK> 思考 </THINK>\nexplain:搜索\taction:TYPE\tvalue:书: a\tpoint:500,1000\tsummary:s\n",
        Action("type", point=(500, 1000), text="书: a", divisor=1000),
    ),
    ("step_gui", "explain:e\taction:COMPLETE\treturn:ok\tsummary:s", Action("done", text="ok")),
    ("step_gui", "explain:e\taction:ABORT\tsummary:s", Action("failed")),
    ("step_gui", "explain:e\taction:WAIT\tvalue:3\tsummary:s", Action("wait", seconds=3)),
    ("pocket", '{"action":"click","x":512,"y":300}', click(512, 300)),
    (
        "pocket",
        '{"action":"type","x":512,"y":300,"text":"9 pm"}',
        Action("type", point=(512, 300), text="9 pm", divisor=1000),
    ),
    ("pocket", '{"action":"none"}', Action("nothing")),
    ("pocket_point", "(512, 300)", Action("locate", point=(512, 300), divisor=1000)),
    ("pocket_point", "not on this screen", Action("refuse")),
]


@pytest.mark.parametrize(("name", "text", "wanted"), AS_THE_FORMAT_HAS_IT)
def test_as_the_format_has_it(name: str, text: str, wanted: Action) -> None:
    assert actions.get(name).parse(text) == [wanted]


BARE = {"action": "left_click", "coordinate": [5, 6]}
LIBERTIES = [
    # Marks and wrapping.
    ("qwen_computer_use", "I click.\n" + json.dumps({"name": "computer_use", "arguments": BARE}), click(5, 6)),
    ("qwen_computer_use", "```json\n" + json.dumps(BARE) + "\n```", click(5, 6)),
    ("qwen_computer_use", "{oh} {} " + json.dumps(BARE), click(5, 6)),
    ("qwen_computer_use", "<tool_call>" + json.dumps({"arguments": BARE}), click(5, 6)),
    ("qwen_computer_use", call(json.dumps(BARE)), click(5, 6)),
    ("qwen_computer_use", call(BARE).replace('"', "'"), click(5, 6)),
    ("qwen_computer_use", "<think>\n<tool_call> in a thought\n</think>\n\n" + call(BARE), click(5, 6)),
    ("qwen_computer_use", "Thought: <tool_call>{} is a mark\n" + call(BARE), click(5, 6)),
    ("ui_venus", "Click(box=(5, 6))", click(5, 6)),
    ("ui_venus", "<action> click( box = [5, 6] ) </action>", click(5, 6)),
    ("step_gui", "<think>a</think>action:CLICK\tpoint:5 6", click(5, 6)),
    ("step_gui", "summary:s\tpoint: 5,6\taction: click", click(5, 6)),
    ("ui_venus_point", "It is at [5, 6], I think.", Action("locate", point=(5, 6), divisor=1000)),
    # Names.
    ("qwen_computer_use", call({"action": "Click", "coordinate": [5, 6]}), click(5, 6)),
    ("mai_ui", call({"action": "terminate", "status": "Success"}, "mobile_use"), Action("done")),
    # Points.
    ("qwen_computer_use", call({"action": "left_click", "coordinate": [4, 4, 7, 8]}), click(5.5, 6)),
    ("qwen_computer_use", call({"action": "left_click", "coordinate": [[5, 6]]}), click(5, 6)),
    ("qwen_computer_use", call({"action": "left_click", "coordinate": "(5, 6)"}), click(5, 6)),
    ("qwen_computer_use", call({"action": "left_click", "coordinate": ["5", "6.5"]}), click(5, 6.5)),
    ("qwen_computer_use", call({"action": "left_click", "coordinate": {"x": 5, "y": 6}}), click(5, 6)),
    ("qwen_computer_use", call({"action": "left_click", "coordinate": [-1, -1]}), Action("refuse")),
    ("qwen_mobile_use", call({"action": "click", "coordinate": [1000, 6]}, "mobile_use"), click(1000, 6, 999)),
    ("ui_venus_point", "[4,4], [6,8]", Action("locate", point=(5, 6), divisor=1000)),
    ("ui_venus_point", "[4, 4, 6, 8]", Action("locate", point=(5, 6), divisor=1000)),
    ("ui_venus_point", "[-1, -1]", Action("refuse")),
    ("pocket_point", "Not on this screen.", Action("refuse")),
    # Other values.
    ("qwen_computer_use", call({"action": "wait", "time": "2"}), Action("wait", seconds=2)),
    ("qwen_computer_use", call({"action": "type", "text": 42}), Action("type", text="42")),
    ("qwen_computer_use", call({"action": "type", "text": "a"}).replace('"a"', '"a\nb"'), Action("type", text="a\nb")),
    ("qwen_computer_use", call({"action": "key", "keys": "ctrl+c"}), Action("press", keys=("ctrl", "c"))),
    ("qwen_computer_use", call({"action": "key", "keys": ["+"]}), Action("press", keys=("+",))),
    ("qwen_computer_use", call({"action": "key", "keys": ["keys=['alt'", "c']"]}), Action("press", keys=("alt", "c"))),
    ("gui_owl", call({"action": "left_click", "coordinate": None}), Action("click")),
    ("qwen_computer_use", call({"action": "wait", "time": 1, "text": "so"}), Action("wait", seconds=1, text="so")),
    ("ui_venus", "<action>Type(content='it's (me)')</action>", Action("type", text="it's (me)")),
    ("ui_venus", '<action>Type(content="a\nb")</action>', Action("type", text="a\nb")),
    ("step_gui", "action:TYPE\tvalue:a\tb http://x", Action("type", text="a\tb http://x")),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "wanted"), LIBERTIES)
def test_liberties(name: str, text: str, wanted: Action) -> None:
    assert actions.get(name).parse(text) == [wanted]


def test_several_calls_are_several_actions() -> None:
    text = call(BARE) + "\n" + call({"action": "type", "text": "</tool_call><tool_call>"})
    assert actions.get("gui_owl").parse(text) == [click(5, 6), Action("type", text="</tool_call><tool_call>")]


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("qwen_computer_use", "", "no JSON object"),
        ("qwen_computer_use", "I cannot do that.", "no JSON object"),
        ("qwen_computer_use", "<tool_call>\n{", "no JSON object"),
        ("qwen_computer_use", call(BARE)[:-30], "no JSON object"),
        ("qwen_computer_use", "<tool_call>[1]</tool_call>", "no JSON object"),
        ("qwen_computer_use", call([]), "has no action"),
        ("qwen_computer_use", call({"action": 1}), "has no action"),
        ("qwen_computer_use", call(BARE, "mobile_use"), "calls 'mobile_use'"),
        ("qwen_computer_use", call({"action": "tap"}), "'tap' is none of left_click"),
        ("qwen_computer_use", call({"action": "left_click"}), "left_click lacks coordinate"),
        ("qwen_computer_use", call({**BARE, "button": "left"}), "no argument 'button'"),
        ("qwen_computer_use", call({"action": "left_click", "coordinate": [5]}), "no point"),
        ("qwen_computer_use", call({"action": "left_click", "coordinate": "here"}), "no point"),
        ("qwen_computer_use", call({"action": "left_click", "coordinate": [5, 1001]}), "outside of the image"),
        ("qwen_computer_use", call({"action": "left_click", "coordinate": [-1, 5]}), "outside of the image"),
        ("qwen_computer_use", call({"action": "left_click", "coordinate": [True, 5]}), "wanted a number"),
        ("qwen_computer_use", call({"action": "left_click", "coordinate": [float("nan"), 5]}), "wanted a number"),
        ("qwen_computer_use", call({"action": "wait", "time": -1}), "wanted seconds"),
        ("qwen_computer_use", call({"action": "key", "keys": []}), "wanted keys"),
        ("qwen_computer_use", call({"action": "type", "text": ["a"]}), "wanted text"),
        ("qwen_computer_use", call({"action": "type", "text": "\ud800"}), "surrogates"),
        ("qwen_computer_use", call({"action": "terminate", "status": "maybe"}), "wanted one of success, failure"),
        ("ui_venus", "<action>Click(868,487)</action>", "no call such as"),
        ("ui_venus", "<action>Click(box=(868,487)</action>", "no call such as"),
        ("ui_venus", "<action>__import__('os')</action>", "no call such as"),
        ("ui_venus", "<action>Click(box=open('x'))</action>", "no call such as"),
        ("ui_venus", "<action>Click(**{})</action>", "no call such as"),
        ("step_gui", "explain:a\tsummary:b", "no field named action"),
        ("step_gui", "action:CLICK\tpoint:5", "no point"),
        ("pocket", '{"action":"click","x":5}', "lacks y"),
        ("pocket", '{"action":"none","x":5}', "half of a point"),
        ("pocket_point", "left of Save", "no point"),
        ("pocket_point", "(1)", "no point"),
    ],
)
def test_what_is_not_understood_says_so(name: str, text: str, reason: str) -> None:
    with pytest.raises(BadAction, match=reason) as caught:
        actions.get(name).parse(text)
    assert repr(text.strip()[:40])[1:-1] in str(caught.value)
    assert name in str(caught.value)


@pytest.mark.parametrize("name", actions.names())
def test_hostile_texts_end_in_a_refusal(name: str) -> None:
    mark = "<action>" if "venus" in name else "<tool_call>"
    for text in (
        "[" * 50_000, "{" * 50_000, '{"a":' * 10_000, "(" * 50_000, mark * 5_000, mark + "[" * 50_000,
        "<think>" * 9_000, mark + "f(" * 20_000, mark + "-" * 50_000 + "1", "1," * 40_000, "\t" * 50_000,
        "[1" + " " * 90_000, "x" * (MAX_CHARS + 1), '{"action":"type","x":1,"y":' + "9" * 4_000 + ',"text":"a"}',
        '{"action":"wait","time":' + "9" * 5_000 + "}", '{"action":"wait","time":' + "9" * 4_000 + "}",
    ):  # fmt: skip
        with pytest.raises(BadAction):
            actions.get(name).parse(text)


@given(st.text(max_size=200), st.sampled_from(actions.names()))
def test_any_text_is_read_or_refused(text: str, name: str) -> None:
    for said in (text, "<tool_call>" + text, "<action>" + text, '{"action":"click","x":' + text, "action:" + text):
        try:
            found = actions.get(name).parse(said)
        except BadAction:
            continue
        assert found
