"""Parameters outside their range are refused with their name."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import msgspec
import pytest

from edge_runtime.engine.option_checks import _RANGES, _settled, kinds
from edge_runtime.engine.request import GenerationOptions, GenerationRequest, SamplingParams
from edge_runtime.errors import BadParameter, BadPrompt
from edge_runtime.model.conversation import Message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", "1"),
        ("temperature", True),
        ("top_k", -1),
        ("top_k", 2.5),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("min_p", 1.5),
        ("repetition_penalty", 0),
        ("presence_penalty", math.inf),
        ("frequency_penalty", -101),
        ("seed", -1),
        ("seed", 2**63),
        ("seed", 1.0),
    ],
)
def test_bad_sampling_parameters(name: str, value: object):
    with pytest.raises(BadParameter, match=name):
        SamplingParams(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", 0),
        ("max_tokens", 1.5),
        ("num_logprobs", -1),
        ("num_logprobs", 21),
        ("stop", ("",)),
        ("stop", (5,)),
        ("stop", "text"),
        ("stop", 5),
        ("stop", b"text"),
        ("stop", "\ud800"),
        ("stop", ("x",) * 17),
        ("enable_thinking", "yes"),
        ("stop_on_repetition", 1),
        ("parse_special", None),
        ("ignore_eos", 1),
        ("cache_salt", "x" * 257),
        ("cache_salt", b"x"),
        ("cache_salt", None),
        ("cache_salt", "\ud800"),
        ("options", {}),
        ("sampling", {}),
    ],
)
def test_bad_request_fields(name: str, value: object):
    with pytest.raises(BadParameter, match=name):
        GenerationRequest("id", (), **{name: value})


def test_the_edges_of_every_range_are_allowed():
    SamplingParams(0.0, 0, 1.0, 0.0, 1.0, 0.0, 0.0, 0)
    SamplingParams(100.0, 2**31, 1e-6, 1.0, 100.0, -100.0, 100.0, 2**63 - 1)
    GenerationRequest("id", (), max_tokens=1, num_logprobs=20, stop=("x",) * 16, cache_salt="\u00e4" * 256)


def test_options_come_whole_by_group_and_by_name():
    sampling, options = SamplingParams(temperature=0.5, seed=3), GenerationOptions(top_k=4, max_tokens=2, stop=("x",))
    assert GenerationRequest("id", ()).options == GenerationOptions()
    assert GenerationRequest("id", (), max_tokens=5, temperature=0.7).options == GenerationOptions(0.7, max_tokens=5)
    by_group = GenerationRequest("id", (), sampling=sampling, max_tokens=5).options
    assert by_group == GenerationOptions(0.5, seed=3, max_tokens=5)
    assert GenerationRequest("id", (), options).options == options
    changed = GenerationRequest("id", (), options, sampling=sampling, seed=4).options
    assert changed == GenerationOptions(0.5, seed=4, max_tokens=2, stop=("x",))
    with pytest.raises(TypeError, match=r"GenerationRequest\(\) got an unexpected option 'temprature'; known are temp"):
        GenerationRequest("id", (), temprature=0.7)


def test_an_option_outside_its_range_keeps_its_error_when_it_is_decoded():
    with pytest.raises(BadParameter, match=r"top_p is 2\.0; it must be a number from 1e-06 to 1"):
        msgspec.json.decode(b'{"top_p": 2}', type=GenerationOptions)


def test_every_option_has_a_description_and_every_number_a_range():
    fields = msgspec.structs.fields(GenerationOptions)
    bare = [field.name for field in fields if not getattr((*get_args(field.type), None)[1], "description", None)]
    assert not bare, f"{bare} need Annotated[..., Meta(description=...)]: it is what `edge-runtime ask --help` says"
    numbers = {name for name, (kind, _) in kinds(GenerationOptions).items() if kind in (int, float)}
    assert numbers == _RANGES.keys()


@pytest.mark.parametrize(
    ("kind", "good", "kept", "bad"),
    [
        (str, "x", "x", 5),
        (float, 1, 1, "x"),
        (float, 0.5, 0.5, math.nan),
        (int, 1, 1, 1.0),
        (bool, True, True, 1),
        (tuple[int, ...], [1, 2], (1, 2), ["x"]),
        (tuple[str, ...], ["x"], ("x",), "x"),
        (tuple[str, ...], {"x"}, ("x",), [5]),
        (Literal["a", "b"], "a", "a", "c"),
    ],
)
def test_a_new_option_is_checked_by_its_annotation(kind: Any, good: Any, kept: Any, bad: Any):
    assert _settled("grammar", good, kind) == kept
    with pytest.raises(BadParameter, match="grammar"):
        _settled("grammar", bad, kind)


def test_stop_strings_come_in_any_form_and_are_kept_as_a_tuple():
    for given, kept in ((None, ()), (["a", "b"], ("a", "b")), ({"a"}, ("a",)), (iter("ab"), ("a", "b"))):
        options = GenerationOptions(stop=given)  # type: ignore[arg-type]
        assert options.stop == kept
        assert hash(options) == hash(GenerationOptions(stop=kept))
    assert GenerationOptions.of(None, {"stop": "ab"}, "ask()", wraps=True).stop == ("ab",)
    with pytest.raises(BadParameter, match="stop is 'ab'; wanted a list of strings"):
        GenerationRequest("1", (), stop="ab")


def test_a_value_too_long_to_show_is_refused_all_the_same():
    with pytest.raises(BadParameter, match="seed is a value of type int, too long to show; it must be a whole number"):
        GenerationOptions(seed=10**5000)
    with pytest.raises(BadParameter, match=r"max_tokens is 'x{79}; it must be"):
        GenerationOptions(max_tokens="x" * 10**6)  # type: ignore[arg-type]


def test_all_options_are_no_sampling():
    with pytest.raises(BadParameter, match="sampling is of type GenerationOptions; give it as options="):
        GenerationRequest("1", (), sampling=GenerationOptions(max_tokens=5))


def test_messages_are_a_list_of_messages():
    said = Message("user", "hi")
    assert GenerationRequest("1", [said]).messages == (said,)
    for messages, says in (
        ("hello", "messages is of type str; wanted Message objects, as"),
        (said, "messages is of type Message; wanted"),
        ({"role": "user", "content": "hi"}, "messages is of type dict; wanted"),
        (None, "messages is None"),
        ([said, {"role": "user", "content": "hi"}], "message 2 is of type dict; wanted"),
    ):
        with pytest.raises(BadPrompt, match=says):
            GenerationRequest("1", messages)  # type: ignore[arg-type]
