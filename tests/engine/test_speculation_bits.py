"""Drafts on real (tiny) bundles: `edge` gives the same bits with and without, `portable` nearly the same numbers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_kernels.library import KernelLibrary
from edge_runtime.devices.profile import KVDtype
from edge_runtime.engine.engine import Engine
from edge_runtime.engine.events import Delta, Failed, Finished, TokenLogprob
from edge_runtime.engine.request import GenerationRequest
from edge_runtime.model.conversation import ImagePart, Message, TextPart
from tests.engine.tiny_engine import engine_of

SCREEN = np.random.default_rng(3).integers(0, 256, (96, 160, 3), dtype=np.uint8)
SAYS = "click the save button, then click the save button again, then click the close button "
QUESTIONS: dict[str, tuple[Message, ...]] = {
    "text": (Message("user", [TextPart(SAYS * 3)]),),
    "image": (Message("user", [TextPart(SAYS), ImagePart(SCREEN), TextPart("what now?")]),),
    "history": (
        Message("user", [ImagePart(SCREEN), TextPart("what now?")]),
        Message("assistant", [TextPart(SAYS)]),
        Message("user", [ImagePart(SCREEN[:64]), TextPart("and now?")]),
    ),
}
SCHEMA = json.dumps({"type": "array", "items": {"enum": ["save", "close"]}, "minItems": 8, "maxItems": 10})
OPTIONS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampled": {"temperature": 0.8, "seed": 11, "top_p": 0.9},
    "penalties": {"repetition_penalty": 1.05, "frequency_penalty": 0.02},
    "grammar": {"schema": SCHEMA},
}
Answers = dict[str, tuple[tuple[int, ...], str, list[TokenLogprob]]]


def answers(engine: Engine, speculation: bool, together: bool = False, **options: Any) -> tuple[Answers, int, int]:
    """All questions answered; then how many tokens were guessed, and how many of them came."""
    fields = {"max_tokens": 100, "num_logprobs": 2, "ignore_eos": "schema" not in options, **options}
    found: Answers = {}
    logprobs: dict[str, list[TokenLogprob]] = {name: [] for name in QUESTIONS}
    guessed = came = 0
    for batch in [list(QUESTIONS)] if together else [[name] for name in QUESTIONS]:
        for name in batch:
            engine.submit(GenerationRequest(name, QUESTIONS[name], speculation=speculation, **fields))
        for event in iter_events(engine):
            if isinstance(event, Delta):
                logprobs[event.request_id] += event.logprobs or ()
            else:
                found[event.request_id] = (event.token_ids, event.finish_reason, logprobs[event.request_id])
                guessed += event.timings.drafted_tokens - event.timings.forced_tokens
                came += event.timings.accepted_tokens - event.timings.forced_tokens
    return found, guessed, came


def iter_events(engine: Engine) -> Iterator[Delta | Finished]:
    while engine.has_work:
        for event in engine.step():
            assert not isinstance(event, Failed), event
            yield event


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("kv_dtype", ["fp32", "int8"])
def test_tokens_and_logprobs_are_the_same_to_the_bit(
    tiny_bundle_edge: Path, kernel_library: KernelLibrary, kv_dtype: KVDtype, options: dict[str, Any]
) -> None:
    plain, none, _ = answers(engine_of(tiny_bundle_edge, kernel_library, kv_dtype), speculation=False, **options)
    assert none <= 0
    for together in (False, True):
        engine = engine_of(tiny_bundle_edge, kernel_library, kv_dtype)
        drafted, num_drafted, num_accepted = answers(engine, speculation=True, together=together, **options)
        assert drafted == plain
        if options.get("temperature", 0) == 0 and "schema" not in options:
            assert num_drafted > num_accepted > 0, "nothing was tested"


def test_portable_gives_nearly_the_same(tiny_bundle: Path, kernel_library: KernelLibrary) -> None:
    """Its rows depend on each other a little (decision 6), so an answer may turn off where two tokens are as likely."""
    plain, _, _ = answers(engine_of(tiny_bundle, None), speculation=False)
    drafted, num_drafted, _ = answers(engine_of(tiny_bundle, None), speculation=True)
    assert num_drafted > 0
    for name, (token_ids, _, logprobs) in plain.items():
        others = drafted[name][2]
        same = next((i for i, token_id in enumerate(token_ids) if token_id != drafted[name][0][i]), len(token_ids))
        near = [one.logprob - other.logprob for one, other in zip(logprobs[:same], others[:same], strict=True)]
        assert np.abs(near).max(initial=0.0) < 0.05
        if same < len(token_ids):
            (_, best), (_, second) = logprobs[same].top
            assert best - second < 0.1
