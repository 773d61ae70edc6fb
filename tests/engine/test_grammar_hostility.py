"""Grammars that want too much are refused or bounded, and the chats beside them do not notice."""

import json
import random
from typing import Any

import pytest

from benchmarks.schemas import ask_all, random_schemas
from edge_runtime.engine.events import Finished
from edge_runtime.errors import BadParameter
from tests.engine.fake_runner import FakeCache, FakeRunner, engine_of, last_of, request, run_all


def nested(depth: int) -> Any:
    schema: Any = {"type": "integer"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


HOSTILE: dict[str, dict[str, Any]] = {
    "deep": {"schema": json.dumps(nested(150))},
    "deep brackets": {"schema": "[" * 60_000},
    "a megabyte": {"schema": json.dumps({"enum": ["x" * 1000 + str(i) for i in range(1000)]})},
    "recursion without an end": {"schema": json.dumps({"$ref": "#"})},
    "recursion": {"schema": json.dumps({"type": "array", "items": {"$ref": "#"}})},
    "wide": {"schema": json.dumps({"anyOf": [{"required": [f"p{i}"]} for i in range(2000)]})},
    "many patterns": {
        "schema": json.dumps({"properties": {f"p{i}": {"pattern": f"(a|b)*{i}(a|b)*"} for i in range(999)}})
    },
    "catastrophic": {"regex": r"(a+)+(b+)+(a|aa)+$"},
    "powers": {"regex": r"(((((a{1,50}){1,50}){1,50}){1,50}){1,50})"},
    "long repeat": {"regex": r"(x{1000}y?){1000}"},
    "stars": {"regex": r"(.*a){20}.{500}"},
    "ambiguous": {"lark": 'start: start start | "a" | "a" start'},
    "many lexemes": {"lark": "start: " + " | ".join(f"/a{{{i}}}b*/" for i in range(1, 900))},
    "left recursion": {"lark": "start: a\na: a"},
    "remainders": {"schema": json.dumps({"type": "integer", "multipleOf": 3000017})},
    "remainders of many": {"schema": json.dumps({"allOf": [{"multipleOf": n} for n in (101, 103, 107, 109)]})},
    "remainders in Lark": {"lark": 'start: %json {"type": "integer", "multipleOf": 3000017}'},
    "remainders in disguise": {"lark": r'start: %json {"type": "integer", "multiple\u004ff": 3000017}'},
    "many choices": {"choice": tuple(f"{'y' * (i % 40)}{i}" for i in range(1024))},
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", HOSTILE)
def test_it_is_refused_or_bounded_and_others_go_on(name: str) -> None:
    def beside(fields: dict[str, Any] | None) -> Finished:
        runner = FakeRunner(max_context=4000, kv_cache=FakeCache(8000))
        engine = engine_of(runner)
        engine.submit(request("quiet", "as ever", max_tokens=60))
        if fields is not None:
            try:
                engine.submit(request("hostile", max_tokens=60, temperature=1.0, seed=1, **fields))
            except BadParameter as error:
                assert len(str(error)) < 600
        events = run_all(engine)
        if "hostile" in events:  # it ends: with an answer, or with a refusal of what takes too much work
            last = events["hostile"][-1]
            assert isinstance(last, Finished) or isinstance(last.error, BadParameter)
        return last_of(events, "quiet")

    assert beside(HOSTILE[name]).token_ids == beside(None).token_ids


@pytest.mark.parametrize("seed", range(4))
def test_answers_of_random_schemas_validate(seed: int) -> None:
    runner = FakeRunner(max_context=4000, kv_cache=FakeCache(8000))
    schemas = list(random_schemas(40, random.Random(seed).randrange(1 << 30)))
    tally = ask_all(engine_of(runner), schemas, max_tokens=400)
    assert not tally.invalid
    assert not tally.failed
    assert not tally.unjudged
    assert tally.valid > 15
    assert tally.valid + tally.cut + sum(tally.refused.values()) == len(schemas)
