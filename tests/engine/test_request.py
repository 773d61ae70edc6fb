"""Parameters outside their range are refused with their name."""

from __future__ import annotations

import math

import pytest

from edge_runtime.engine.request import GenerationRequest, SamplingParams
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
    ],
)
def test_bad_request_fields(name: str, value: object):
    with pytest.raises(BadParameter, match=name):
        GenerationRequest("id", (), **{name: value})


def test_the_edges_of_every_range_are_allowed():
    SamplingParams(0.0, 0, 1.0, 0.0, 1.0, 0.0, 0.0, 0)
    SamplingParams(100.0, 2**31, 1e-6, 1.0, 100.0, -100.0, 100.0, 2**63 - 1)
    GenerationRequest("id", (), max_tokens=1, num_logprobs=20, stop=("x",) * 16)
