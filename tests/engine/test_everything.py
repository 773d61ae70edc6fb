"""Everything at once on a real (tiny) bundle: images, reuse, grammars, budgets, drafts, int8 cache, several chats.

Greedy tokens are those of a plain run: alone, nothing kept, nothing guessed; and a grammar binds only where the model
would have said what it forbids.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from edge_kernels.library import KernelLibrary
from edge_runtime.engine.engine import Engine
from edge_runtime.engine.events import Delta, Event, Failed, Finished
from edge_runtime.engine.request import GenerationOptions, GenerationRequest
from edge_runtime.engine.token_log import TokenLog
from edge_runtime.model.cancellation import CancelToken
from edge_runtime.model.conversation import ImagePart, Message, TextPart
from tests.engine.tiny_engine import engine_of

RNG = np.random.default_rng(5)
SCREENS = [RNG.integers(0, 256, (96, 160, 3), dtype=np.uint8) for _ in range(3)]
SCHEMA = {
    "type": "object",
    "properties": {
        "thought": {"type": "string", "maxLength": 12},
        "action": {"enum": ["click", "type"]},
        "point": {
            "type": "array",
            "items": {"type": "integer", "minimum": 0, "maximum": 999},
            "minItems": 2,
            "maxItems": 2,
        },
    },
    "required": ["thought", "action", "point"],
    "additionalProperties": False,
}
SYSTEM = Message("system", "you are an agent that clicks, and says so in JSON " * 2)
REQUESTS: dict[str, dict[str, Any]] = {
    "think json": {"schema": json.dumps(SCHEMA), "thinking_budget": 9, "max_tokens": 120},
    "json": {"schema": json.dumps(SCHEMA), "max_tokens": 120},
    "think plain": {"thinking_budget": 5, "max_tokens": 40},
    "plain": {"max_tokens": 40},
    "penalized json": {"schema": json.dumps(SCHEMA), "max_tokens": 120, "repetition_penalty": 1.3},
    "choice": {"choice": ("left", "right", "up and away"), "max_tokens": 20},
    "long": {"max_tokens": 70, "stop_on_repetition": True},
    "regex": {"regex": r"\((\d{1,3}), (\d{1,3})\)", "max_tokens": 20},
}


def engine_with_thoughts(bundle: Path, kernels: KernelLibrary) -> Engine:
    """Of which requests called "think ..." end inside a thought, as those of a Thinking template do."""
    engine = engine_of(bundle, kernels, kv_dtype="int8", cache_tokens=8192, shared_chunk=16)
    prepare = engine._runner.prepare

    def with_thought(request: GenerationRequest, cancel: CancelToken) -> TokenLog:
        log = prepare(request, cancel)
        log.starts_in_reasoning = request.request_id.startswith("think")
        return log

    engine._runner.prepare = with_thought  # type: ignore[method-assign]
    return engine


def asked(name: str, **options: Any) -> GenerationRequest:
    number = list(REQUESTS).index(name)
    content = [
        ImagePart(SCREENS[number % 3]),
        TextPart("what now? say what you see, and click it. " * (1 + number % 2)),
    ]
    return GenerationRequest(name, (SYSTEM, Message("user", content)), **{**REQUESTS[name], **options})


def run(engine: Engine, names: list[str], **options: Any) -> dict[str, list[Event]]:
    """All `names` together."""
    events: dict[str, list[Event]] = {}
    for name in names:
        engine.submit(asked(name, **options))
    while engine.has_work:
        for event in engine.step():
            assert not isinstance(event, Failed), event
            events.setdefault(event.request_id, []).append(event)
    return events


def last(events: list[Event]) -> Finished:
    assert isinstance(events[-1], Finished)
    return events[-1]


def test_greedy_tokens_are_those_of_the_plain_run(tiny_bundle_edge: Path, kernel_library: KernelLibrary) -> None:
    plain = {
        name: last(run(engine_with_thoughts(tiny_bundle_edge, kernel_library), [name], speculation=False)[name])
        for name in REQUESTS
    }
    engine = engine_with_thoughts(tiny_bundle_edge, kernel_library)
    names = list(REQUESTS)
    for together in (names[:4], names[4:], names[::-1], names):  # the second half finds what the first has computed
        ends = {name: last(events) for name, events in run(engine, together, speculation=True).items()}
        for name, end in ends.items():
            assert end.token_ids == plain[name].token_ids, name
            assert (end.text, end.reasoning, end.finish_reason) == (
                plain[name].text,
                plain[name].reasoning,
                plain[name].finish_reason,
            )
    assert all(end.timings.cached_tokens > 64 for end in ends.values())
    assert sum(end.timings.accepted_tokens for end in ends.values()) > 0
    for name, end in ends.items():
        if "json" in name and end.finish_reason == "stop":
            jsonschema.validate(json.loads(end.text), SCHEMA)


@pytest.mark.parametrize("name", ["think json", "json", "choice", "regex"])
def test_a_grammar_binds_only_where_it_must(tiny_bundle_edge: Path, kernel_library: KernelLibrary, name: str) -> None:
    engine = engine_with_thoughts(tiny_bundle_edge, kernel_library)
    events = run(engine, [name], speculation=True, num_logprobs=1)[name]
    told = [one for event in events if isinstance(event, Delta) for one in event.logprobs or ()]
    grammar = engine._runner.grammars.of(
        GenerationOptions(**{k: REQUESTS[name][k] for k in ("schema", "choice", "regex") if k in REQUESTS[name]})
    )
    assert grammar is not None
    ids = last(events).token_ids
    thoughts = engine._runner.thought_tokens
    assert thoughts is not None
    begin = ids.index(thoughts.closing[-1]) + 1 + len(thoughts.gap) if thoughts.closing[-1] in ids else 0
    num_free = 0
    for index, (token_id, one) in enumerate(zip(ids, told, strict=True)):
        likeliest = one.top[0][0]
        if index < begin:
            num_free += token_id == likeliest
            continue
        forced = grammar.forced()
        if token_id != likeliest:
            assert forced[:1] == [token_id] or not grammar.fits(np.array([likeliest])), index
        if token_id in engine._runner.eos_token_ids:
            break
        grammar.take(token_id)
    assert num_free >= begin - len(thoughts.closing + thoughts.gap)  # thoughts are free but for what closes them
