"""Parameters outside their range are refused with their name."""

from __future__ import annotations

import math

import msgspec
import pytest

from edge_runtime.engine.request import GenerationOptions, GenerationRequest, SamplingParams
from edge_runtime.errors import BadParameter


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
        ("stop", "text"),
        ("stop", (5,)),
        ("stop", ("x",) * 17),
        ("enable_thinking", "yes"),
        ("stop_on_repetition", 1),
        ("parse_special", None),
        ("ignore_eos", 1),
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
    GenerationRequest("id", (), max_tokens=1, num_logprobs=20, stop=("x",) * 16)


def test_options_come_whole_by_group_and_by_name():
    sampling, options = SamplingParams(temperature=0.5, seed=3), GenerationOptions(top_k=4, max_tokens=2, stop=("x",))
    assert GenerationRequest("id", ()).options == GenerationOptions()
    assert GenerationRequest("id", (), max_tokens=5, temperature=0.7).options == GenerationOptions(0.7, max_tokens=5)
    by_group = GenerationRequest("id", (), sampling=sampling, max_tokens=5).options
    assert by_group == GenerationOptions(0.5, seed=3, max_tokens=5)
    assert GenerationRequest("id", (), options).options == options
    changed = GenerationRequest("id", (), options, sampling=sampling, seed=4).options
    assert changed == GenerationOptions(0.5, seed=4, max_tokens=2, stop=("x",))
    with pytest.raises(TypeError, match="temprature"):
        GenerationRequest("id", (), temprature=0.7)


def test_an_option_outside_its_range_keeps_its_error_when_it_is_decoded():
    with pytest.raises(BadParameter, match=r"top_p is 2\.0; it must be a number from 1e-06 to 1"):
        msgspec.json.decode(b'{"top_p": 2}', type=GenerationOptions)
