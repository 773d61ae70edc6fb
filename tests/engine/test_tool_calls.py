"""Calls out of the tokens of an answer: streamed as they come, whole at the end, and nothing that only looks so."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.engine.events import Delta, Finished
from edge_runtime.engine.request import GenerationRequest
from edge_runtime.engine.transcript import Offered, Transcript
from edge_runtime.errors import BadParameter
from edge_runtime.model.tools import ToolDefinition
from tests.engine.fake_runner import (
    CALL,
    END_CALL,
    END_THINK,
    EOS,
    THINK,
    FakeRunner,
    engine_of,
    last_of,
    request,
    run_all,
)

NAMES = ("f", "get_weather")
TOOLS = tuple(map(ToolDefinition, NAMES))
Piece = bytes | int


def said_call(arguments: str = '{"a": 1}', name: str = "f") -> list[Piece]:
    return [CALL, f'\n{{"name": "{name}", "arguments": {arguments}}}\n'.encode(), END_CALL]


class Heard:
    """What a transcript tells of some tokens; ids stand for themselves."""

    def __init__(
        self, pieces: Sequence[Piece], stop: tuple[str, ...] = (), *, thinks: bool = False, offered: bool = True
    ) -> None:
        tools = Offered((CALL, END_CALL), frozenset(NAMES)) if offered else None
        transcript = Transcript((THINK, END_THINK), thinks, stop, tools)
        words = {CALL: b"<tool_call>", END_CALL: b"</tool_call>", THINK: b"<think>", END_THINK: b"</think>", EOS: b""}
        self.deltas = []
        for piece in pieces:
            if not transcript.stopped:
                token_id, data = (piece, words[piece]) if isinstance(piece, int) else (5, piece)
                self.deltas.append(transcript.feed(token_id, data))
        self.deltas += transcript.finish()
        self.text, self.reasoning, self.calls = transcript.text, transcript.reasoning, transcript.tool_calls
        self.malformed = transcript.malformed_calls
        assert "".join(said.text for said in self.deltas if said.channel == "answer") == self.text
        assert "".join(said.text for said in self.deltas if said.channel == "reasoning") == self.reasoning
        streamed = self.streamed()
        for call in self.calls:
            assert re.fullmatch(r"call_[0-9a-f]{24}", call.id)  # pitfall (g)
            assert streamed[call.id] == (call.name, call.arguments)
        assert len({call.id for call in self.calls}) == len(self.calls)

    def streamed(self) -> dict[str, tuple[str, str]]:
        """Name and arguments by id, out of the deltas alone."""
        begun: list[list[str]] = []
        for said in self.deltas:
            assert (said.channel == "tool_call") == (said.call is not None) or not said.text
            if said.call is not None:
                if said.call.id:
                    assert said.call.index == len(begun)
                    begun.append([said.call.id, said.call.name, ""])
                begun[said.call.index][2] += said.text
        return {call_id: (name, text) for call_id, name, text in begun}

    @property
    def called(self) -> list[tuple[str, str]]:
        return [(call.name, call.arguments) for call in self.calls]


def test_arguments_come_as_they_are_said_and_nothing_around_them() -> None:
    pieces = [
        CALL,
        b'\n{"name": "get_',
        b'weather", "argu',
        b'ments": ',
        b'{"ci',
        b'ty": "}\\"',
        b'"}',
        b"}\n",
        END_CALL,
    ]
    heard = Heard(pieces)
    assert [said.text for said in heard.deltas if said.call] == ['{"ci', 'ty": "}\\"', '"}']
    assert heard.called == [("get_weather", '{"city": "}\\""}')]
    assert heard.text == ""


@pytest.mark.parametrize(
    ("before", "between", "after", "text"),
    [
        ([], [], [], ""),
        ([b"Let me see.\n"], [b"\n"], [], "Let me see."),
        ([b"Let me see.\n\n"], [b"\n\n"], [b"\n"], "Let me see.\n"),
        ([b"See."], [], [b"\nDone."], "See.\nDone."),
        ([THINK, b"hm\n", END_THINK, b"\n\nSee.\n\n"], [b"\n"], [EOS], "See."),
        ([THINK, b"hm\n", END_THINK, b"\n\n"], [b"\n"], [EOS], ""),
    ],
)
def test_several_calls_and_text_before_the_first(
    before: list[Piece], between: list[Piece], after: list[Piece], text: str
) -> None:
    """Pitfall (e)."""
    heard = Heard([*before, *said_call(), *between, *said_call('{"b": [{}]}', "get_weather"), *after])
    assert heard.called == [("f", '{"a": 1}'), ("get_weather", '{"b": [{}]}')]
    assert (heard.text, heard.malformed) == (text, ())


def test_without_calls_the_text_is_what_was_said() -> None:
    for pieces in ([b"\n a \n\n"], [b"a", b"\n", b"\n", b"b\n", EOS]):
        whole = "".join(piece.decode() for piece in pieces if isinstance(piece, bytes))
        assert Heard(pieces).text == Heard(pieces, offered=False).text == whole


def test_without_tools_a_call_is_text_like_any() -> None:
    heard = Heard([b"a\n", *said_call()], offered=False)
    assert heard.text == 'a\n<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
    assert {said.channel for said in heard.deltas} == {"answer"}


def test_a_thought_of_a_call_is_none() -> None:
    """Pitfall (j)."""
    for pieces, thinks in (([THINK, *said_call(), END_THINK, b"no"], False), ([*said_call(), END_THINK, b"no"], True)):
        heard = Heard(pieces, thinks=thinks)
        assert heard.calls == ()
        assert '{"name": "f", "arguments": {"a": 1}}' in heard.reasoning
        assert heard.text == "no"


def test_letters_that_spell_a_call_are_none() -> None:
    spelled = b'<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    heard = Heard([spelled, END_CALL])
    assert (heard.calls, heard.text) == ((), spelled.decode() + "</tool_call>")


MALFORMED = {
    "no JSON": (b"\n{name: f}\n", "no JSON"),
    "half of it": (b'\n{"name": "f", "arguments": {"a": 1}\n', "no JSON"),
    "NaN": (b'\n{"name": "f", "arguments": {"a": NaN}}\n', "no JSON"),
    "nothing": (b"", "no JSON"),
    "a list": (b"[]", "no name"),
    "no name": (b'{"arguments": {}}', "no name"),
    "another name": (b'{"name": "g", "arguments": {}}', "'g', which was not offered"),
    "no arguments": (b'{"name": "f"}', "must have arguments"),
    "arguments as text": (b'{"name": "f", "arguments": "{}"}', "must have arguments"),
    "arguments as a list": (b'{"name": "f", "arguments": []}', "must have arguments"),
    "more": (b'{"name": "f", "arguments": {}, "id": 1}', "nothing else"),
    "a name twice": (b'{"name": "f", "arguments": {}, "name": "get_weather"}', "twice"),
    "arguments twice": (b'{"name": "f", "arguments": {}, "arguments": {"a": 1}}', "twice"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_call_is_told_with_what_was_said(case: str) -> None:
    """Pitfall (h) among them: a name that was not offered."""
    inside, reason = MALFORMED[case]
    for pieces in ([inside], [bytes([byte]) for byte in inside]):
        heard = Heard([b"Look.\n", CALL, *pieces, END_CALL, b"\n", *said_call()], stop=("name",))
        assert heard.text == f"Look.\n<tool_call>{inside.decode()}</tool_call>"
        assert len(heard.malformed) == 1
        assert reason in heard.malformed[0]
        assert heard.called == [("f", '{"a": 1}')]


@pytest.mark.parametrize("end", [[], [EOS]])
def test_a_call_that_does_not_end_is_text(end: list[Piece]) -> None:
    """Pitfall (f)."""
    whole = said_call('{"text": "one two"}')
    inside = whole[1]
    assert isinstance(inside, bytes)
    for length in range(len(inside) + 1):
        heard = Heard([b"See.\n", *said_call(), b"\n", CALL, inside[:length], *end])
        assert heard.text == "See.\n<tool_call>" + inside[:length].decode()
        assert heard.called == [("f", '{"a": 1}')]
        assert heard.malformed == ("the answer ended inside a call",)


def test_a_call_inside_a_call_does_not_take_it_along() -> None:
    heard = Heard([CALL, b'\n{"name": "f", "arguments": {"a": ', *said_call('{"b": 2}'), END_CALL, b"x"])
    assert heard.called == [("f", '{"b": 2}')]
    assert heard.text == '<tool_call>\n{"name": "f", "arguments": {"a": </tool_call>x'
    assert heard.malformed == ("another call began inside a call",)


@pytest.mark.parametrize(
    "inside",
    [
        '{"arguments": {"b": "ä", "a": 1}, "name": "f"}',
        ' {\n "name" : "f" ,\n "arguments" : {"b": "ä", "a": 1} } ',
        '{"name": "\\u0066", "arguments": {"b": "ä", "a": 1}}',
        " " * 2000 + '{"name": "f", "arguments": {"b": "ä", "a": 1}}',
    ],
)
def test_calls_may_be_spelled_otherwise(inside: str) -> None:
    assert Heard([CALL, inside.encode(), END_CALL]).called == [("f", '{"b": "ä", "a": 1}')]


def test_no_stop_string_is_looked_for_in_a_call() -> None:
    stop = ('"a"', "\n\n", "call>x")
    assert Heard([b"See\n", *said_call()], stop).called == [("f", '{"a": 1}')]
    assert Heard([b"\n", *said_call(), b"\nx"], stop).text == "\nx"
    assert Heard([b'"', *said_call(), b'a"'], stop).text == '"a"', "none is pieced together around a call"
    assert Heard([b'x"a"', *said_call()], stop).called == []


def test_half_a_character_before_a_call_or_in_one() -> None:
    heard = Heard([b"\xf0\x9f", CALL, b'{"name": "f", "arguments": {"a": "\xc3', b'\xa4"}}', END_CALL, b"\x99"])
    assert heard.text == "\ufffd\ufffd"
    assert heard.called == [("f", '{"a": "ä"}')]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.text(alphabet='a{}[]"\\\n<ä🙂:, ', max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(alphabet='a}"\\', max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(
    st.lists(st.dictionaries(st.text(max_size=3), json_values, max_size=3), max_size=3),
    st.booleans(),
    st.lists(st.integers(0, 500), max_size=30),
)
@settings(max_examples=200)
def test_calls_are_the_same_however_the_answer_is_cut(
    values: list[dict[str, object]], is_ascii: bool, places: list[int]
) -> None:
    wanted = [json.dumps(value, ensure_ascii=is_ascii) for value in values]
    pieces: list[Piece] = []
    for arguments in wanted:
        first, inside, last = said_call(arguments)
        assert isinstance(inside, bytes)
        cuts = sorted({0, len(inside), *(place % (len(inside) + 1) for place in places)})
        pieces += [first, *(inside[a:b] for a, b in pairwise(cuts)), last]
    assert Heard(pieces).called == [("f", arguments) for arguments in wanted]


# ---- the engine --------------------------------------------------------------------------------------------------


def ask(tokens: list[int], **options: object) -> tuple[list[Delta], Finished]:
    """What the engine says of an answer that a model wants to give so."""
    engine = engine_of(FakeRunner(script={"hello": [*tokens, *[EOS] * 300]}))  # a grammar may go on without it
    engine.submit(request("a", **{"max_tokens": 300, "tools": TOOLS, **options}))
    events = run_all(engine)["a"]
    return [event for event in events if isinstance(event, Delta)], last_of({"a": events}, "a")


def tokens_of(*pieces: Piece) -> list[int]:
    return [token for piece in pieces for token in ([piece] if isinstance(piece, int) else piece)]


CALLING = tokens_of(b"See.\n", *said_call("{}"), b"\n", *said_call('{"b": 2}', "get_weather"), EOS)


def test_an_answer_that_calls_ends_in_tool_calls() -> None:
    deltas, ended = ask(CALLING)
    assert ended.finish_reason == "tool_calls"
    assert ended.text == "See."
    assert [(call.name, call.arguments) for call in ended.tool_calls] == [("f", "{}"), ("get_weather", '{"b": 2}')]
    first = [delta for delta in deltas if delta.tool_call and delta.tool_call.index == 0]
    assert first[0].tool_call is not None
    assert (first[0].tool_call.id, first[0].tool_call.name) == (ended.tool_calls[0].id, "f")
    assert all(delta.channel == "tool_call" for delta in first)
    assert ended.message.tool_calls == ended.tool_calls


@pytest.mark.parametrize("length", range(1, len(CALLING)))
def test_a_call_that_max_tokens_cuts_is_none(length: int) -> None:
    """Pitfall (f): the reason is the length, and what was said of it is text."""
    _, ended = ask(CALLING, max_tokens=length)
    assert ended.finish_reason == "length"
    said = bytes(token for token in CALLING[:length] if token < 256)
    num_whole = CALLING[:length].count(END_CALL)
    assert len(ended.tool_calls) == num_whole
    is_cut = CALLING[:length].count(CALL) > num_whole
    assert ("<tool_call>" in ended.text) == is_cut == bool(ended.malformed_calls)
    if is_cut and num_whole == 0:
        assert ended.text == said.decode().replace("See.\n", "See.\n<tool_call>")


def test_what_is_not_offered_cannot_be_called() -> None:
    """Pitfall (h): the grammar leaves no other name, and no arguments outside the schema."""
    schema = '{"properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": false}'
    for tokens in (tokens_of(*said_call("{}", "other"), EOS), tokens_of(CALL, b"nonsense", END_CALL, EOS)):
        _, ended = ask(tokens, tools=(ToolDefinition("f", "", schema),), tool_choice="required")
        assert ended.malformed_calls == ()
        for call in ended.tool_calls:
            assert call.name == "f"
            assert isinstance(json.loads(call.arguments)["a"], int)
        assert ended.tool_calls or ended.finish_reason == "length"


def test_one_call_at_a_time_ends_the_answer() -> None:
    """Pitfall (l)."""
    for choice in ("auto", "required", "name:f"):
        _, ended = ask(CALLING, parallel_tool_calls=False, tool_choice=choice)
        assert [call.name for call in ended.tool_calls] == ["f"]
        assert ended.finish_reason == "tool_calls"


def test_a_choice_is_made_for_the_model() -> None:
    words = tokens_of(b"I would rather talk about it.", EOS)
    assert ask(words)[1].text == "I would rather talk about it."
    for choice, names in (("required", NAMES), ("name:get_weather", ("get_weather",))):
        _, ended = ask(words, tool_choice=choice, max_tokens=60, parallel_tool_calls=False)
        assert (ended.text, ended.malformed_calls) == ("", ()) or ended.finish_reason == "length"
        assert all(call.name in names for call in ended.tool_calls)
        assert ended.token_ids[0] == CALL


def test_without_a_choice_there_are_no_tools() -> None:
    """Pitfall (k): the model is not told of them, and what it says is text."""
    asked: list[GenerationRequest] = []
    engine = engine_of(FakeRunner(script={"hello": CALLING}, on_prepare=asked.append))
    engine.submit(request("a", max_tokens=300, tools=TOOLS, tool_choice="none"))
    ended = last_of(run_all(engine), "a")
    assert asked[0].options.offered_tools == ()
    assert (ended.tool_calls, ended.finish_reason) == ((), "stop")


def test_a_thought_may_come_before_a_call() -> None:
    _, ended = ask(tokens_of(b"hm", END_THINK, b"\n\n", *said_call("{}"), EOS), tool_choice="auto")
    assert ended.text.startswith("hm")  # no thought was open: the grammar lets no end of one through
    engine = engine_of(FakeRunner(script={"<think>": tokens_of(b"hm", END_THINK, b"\n\n", *said_call("{}"), EOS)}))
    engine.submit(request("a", "<think>", max_tokens=300, tools=TOOLS))
    ended = last_of(run_all(engine), "a")
    assert (ended.reasoning, ended.text, ended.finish_reason) == ("hm", "", "tool_calls")


def test_words_may_have_a_schema_beside_calls() -> None:
    schema = '{"type": "object", "properties": {"x": {"const": 1}}, "required": ["x"], "additionalProperties": false}'
    assert ask(tokens_of(b'{"x": 1}', EOS), schema=schema)[1].text == '{"x": 1}'
    _, ended = ask(CALLING[5:], schema=schema)
    assert (ended.text, len(ended.tool_calls)) == ("", 2)
    assert ask(tokens_of(b"words", EOS), schema=schema)[1].text in ('{"x": 1}', "")


@pytest.mark.parametrize(
    "options",
    [
        {"tools": [TOOLS[0], TOOLS[0]]},
        {"tools": [{"name": ""}]},
        {"tools": "f"},
        {"tools": [ToolDefinition(f"f{number}") for number in range(129)]},
        {"tools": TOOLS, "tool_choice": "g"},
        {"tools": TOOLS, "tool_choice": "name:g"},
        {"tools": TOOLS, "tool_choice": None},
        {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "g"}}},
        {"tool_choice": "required"},
        {"tools": TOOLS, "parallel_tool_calls": 1},
        {"tools": TOOLS, "regex": "a"},
        {"tools": TOOLS, "choice": ["a"]},
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(BadParameter):
        GenerationRequest("a", (), **options)  # type: ignore[arg-type]


def test_options_as_openai_has_them() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    choice = {"type": "function", "function": {"name": "f"}}
    options = GenerationRequest("a", (), tools=[tool], tool_choice=choice).options
    assert options.tools == (ToolDefinition("f"),)
    assert options.tool_choice == "name:f"


def test_a_schema_that_no_grammar_can_follow_is_refused_before_any_work() -> None:
    engine = engine_of(runner := FakeRunner())
    lookahead = '{"type": "object", "properties": {"a": {"type": "string", "pattern": "(?=a)b"}}}'
    with pytest.raises(BadParameter, match="grammar"):
        engine.submit(request("a", tools=[ToolDefinition("f", "", lookahead)]))
    assert not runner.forwards
