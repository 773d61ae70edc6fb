"""From tokens to text: UTF-8, stop strings and channels give the same whatever the pieces are."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edge_runtime.engine.text_stream import NewlineTrimmer, StopMatcher, Utf8Stream
from edge_runtime.engine.transcript import Transcript

THINK, END_THINK = 1000, 1001


def cut(data, places):
    """`data` in pieces, cut at `places` (any numbers)."""
    bounds = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in pairwise(bounds)]


places = st.lists(st.integers(0, 200), max_size=12)
byte_soup = st.lists(
    st.one_of(
        st.binary(max_size=3),
        st.text(max_size=3).map(str.encode),
        st.sampled_from([b"\xf0\x9f", b"\xe4", b"\xed\xa0\x80"]),
    )
).map(b"".join)


@given(byte_soup, places)
@example("né🙂".encode(), [1, 2, 3, 4, 5, 6])
@example(b"\xf0\x80\x80\x41\xf0\x9f\x99", [1, 2, 3, 4, 5, 6])
@settings(max_examples=300)
def test_streamed_text_equals_the_whole(data: bytes, where: list[int]):
    stream = Utf8Stream()
    streamed = "".join(stream.feed(piece) for piece in cut(data, where)) + stream.flush()
    assert streamed == data.decode("utf-8", errors="replace")


def test_no_part_of_a_character_comes_out_early():
    stream = Utf8Stream()
    assert [stream.feed(bytes([byte])) for byte in "a🙂é".encode()] == ["a", "", "", "", "🙂", "", "é"]
    assert stream.flush() == ""


def test_a_flushed_stream_starts_afresh():
    stream = Utf8Stream()
    assert stream.feed(b"\xf0\x9f") == ""
    assert stream.flush() == "\N{REPLACEMENT CHARACTER}"
    assert stream.feed(b"\x99a") == "\N{REPLACEMENT CHARACTER}a"


def naive_stop(text: str, stops: tuple[str, ...]) -> tuple[str, bool]:
    """Read character by character; at the first place where a stop string ends, drop the longest that ends there."""
    for end in range(1, len(text) + 1):
        matches = [len(stop) for stop in stops if text[:end].endswith(stop)]
        if matches:
            return text[: end - max(matches)], True
    return text, False


short = st.text(alphabet="ab\n", max_size=14)
stop_strings = st.lists(st.text(alphabet="ab\n", min_size=1, max_size=4), max_size=3).map(tuple)


@given(short, stop_strings, places)
@example("abcd", ("abcd", "bc"), [])
@example("aab", ("ab",), [1, 2])
@settings(max_examples=500)
def test_stop_strings_equal_naive_search(text: str, stops: tuple[str, ...], where: list[int]):
    matcher = StopMatcher(stops)
    expected, stopped = naive_stop(text, stops)
    streamed = ""
    for piece in cut(text, where):
        streamed += matcher.feed(piece)
        assert expected.startswith(streamed), "text of a stop string leaked"
    streamed += matcher.flush()
    assert (streamed, matcher.matched) == (expected, stopped)


def test_only_what_may_begin_a_stop_string_is_held_back():
    matcher = StopMatcher(("<end>",))
    assert [matcher.feed(piece) for piece in ("hello <", "b", " <en", "d", ">tail")] == ["hello ", "<b", " ", "", ""]
    assert matcher.matched
    assert matcher.feed("more") == ""
    assert matcher.flush() == ""


@given(short, places)
@settings(max_examples=200)
def test_trimmed_newlines_equal_strip(text: str, where: list[int]):
    trimmer = NewlineTrimmer()
    assert "".join(trimmer.hold_end(trimmer.trim_start(piece)) for piece in cut(text, where)) == text.strip("\n")


def tell(pieces: list[bytes | int], stop: tuple[str, ...] = (), in_reasoning: bool = False) -> tuple[str, str]:
    """Reasoning and answer of tokens given as bytes, or ids of think tokens; checks that the deltas join to them."""
    transcript = Transcript((THINK, END_THINK), in_reasoning, stop)
    tokens = [(piece, b"<think>") if isinstance(piece, int) else (5, piece) for piece in pieces]
    deltas = [transcript.feed(*token) for token in tokens if not transcript.stopped]
    deltas += transcript.finish()
    assert "".join(text for channel, text, _ in deltas if channel == "answer") == transcript.text
    assert "".join(text for channel, text, _ in deltas if channel == "reasoning") == transcript.reasoning
    return transcript.reasoning, transcript.text


@pytest.mark.parametrize(
    ("pieces", "reasoning", "answer"),
    [
        ([b"\n plain \n"], "", "\n plain \n"),
        ([THINK, b"\n", b"why\n", b"\n", END_THINK, b"\n\n", b"so\n", b"\nit", b"\n"], "why", "so\n\nit"),
        ([THINK, b"\n\n", END_THINK, b"\n\nok"], "", "ok"),
        ([THINK, b"never closed\n"], "never closed", ""),
        ([END_THINK, b"\nstray"], "", "\nstray"),
        ([THINK, b"\xf0\x9f", END_THINK, b"\x99a"], "\ufffd", "\ufffda"),
        ([THINK, b"one\n", END_THINK, THINK, b"\ntwo", END_THINK, b"ok"], "one\n\ntwo", "ok"),
    ],
)
def test_reasoning_and_answer_are_told_apart(pieces: list[bytes | int], reasoning: str, answer: str):
    assert tell(pieces) == (reasoning, answer)


def test_a_prompt_can_have_opened_the_reasoning():
    assert tell([b"hm\n", END_THINK, b"\nok"], in_reasoning=True) == ("hm", "ok")


def test_a_model_without_think_tokens_only_answers():
    transcript = Transcript(None, starts_in_reasoning=False)
    assert transcript.feed(THINK, b"x")[:2] == ("answer", "x")


def test_stop_strings_apply_to_the_answer_alone():
    assert tell([THINK, b"a STOP b", END_THINK, b"c STOP d"], (" STOP",)) == ("a STOP b", "c")
    assert tell([THINK, b"x", END_THINK, b"\n\n", b"line\n", b"\nnext"], ("\n\n",)) == ("x", "line")


def test_a_stop_string_is_not_pieced_together_from_two_channels_and_held_text_is_not_lost():
    assert tell([b"ST", THINK, b"OP", END_THINK], ("STOP",)) == ("OP", "ST")
    assert tell([b"ST", THINK, b"OP"], ("STOP",)) == ("OP", "ST")


def test_a_stop_string_may_end_in_a_replaced_character():
    assert tell([b"a\xf0\x9f"], ("\ufffd",)) == ("", "a")
