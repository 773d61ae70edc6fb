"""`python -m benchmarks.schemas BUNDLE` asks for JSON of many schemas, and whether every answer validates.

Random schemas, and those of a checkout of json-schema-org/JSON-Schema-Test-Suite with `--suite`, each asked with its
own prompt and way of sampling, several at a time. The jsonschema library judges. Told are how many schemas were
refused, and why most; how many answers were cut by their length; how many of the others validate; and the longest that
a schema took to be taken or refused. Exits with 1 if an answer does not validate. One JSON line at the end.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema

from edge_runtime.devices.memory import MemoryRequest
from edge_runtime.engine.engine import Engine
from edge_runtime.engine.events import Failed, Finished
from edge_runtime.engine.load import PlannedBundle
from edge_runtime.engine.request import GenerationRequest
from edge_runtime.errors import BadParameter, EdgeError
from edge_runtime.model.conversation import Message

DRAFTS = {
    "draft4": "http://json-schema.org/draft-04/schema#",
    "draft6": "http://json-schema.org/draft-06/schema#",
    "draft7": "http://json-schema.org/draft-07/schema#",
    "draft2019-09": "https://json-schema.org/draft/2019-09/schema",
    "draft2020-12": "https://json-schema.org/draft/2020-12/schema",
}
WORDS = ("name", "size", "point", "label", "état", "x y", "üñ", "a", "items", "why", 'q"u', "on")
DEPTH = 4
PROMPTS = ("Describe a person.", "Which button?", "Say anything.", "Was siehst du?", "1, 2, 3", "{}", "再见")


@dataclass
class Tally:
    """What became of the pairs."""

    refused: Counter[str] = field(default_factory=Counter)
    cut: int = 0
    valid: int = 0
    invalid: list[tuple[Any, str]] = field(default_factory=list)
    unjudged: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0
    """To take a schema or refuse it."""


def main() -> None:
    """Ask, judge, tell."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.schemas", description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--pairs", type=int, default=2000, help="random ones")
    parser.add_argument("--suite", type=Path, help="checkout of JSON-Schema-Test-Suite")
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    planned = PlannedBundle.open(arguments.bundle, "auto", MemoryRequest(max_chats=4, context_tokens=2048))
    schemas = [
        *(of_suite(arguments.suite) if arguments.suite else ()),
        *random_schemas(arguments.pairs, arguments.seed),
    ]
    tally = ask_all(planned.load(), schemas, arguments.max_tokens)
    for schema, text in tally.invalid[:20]:
        sys.stderr.write(f"INVALID {json.dumps(schema)[:300]}\n        {text[:300]}\n")
    facts = {
        "bundle": arguments.bundle.name,
        "schemas": len(schemas),
        "refused": sum(tally.refused.values()),
        "why": tally.refused.most_common(8),
        "cut": tally.cut,
        "valid": tally.valid,
        "invalid": len(tally.invalid),
        "unjudged": tally.unjudged.most_common(8),
        "failed": tally.failed.most_common(8),
        "slowest_s": round(tally.slowest_s, 3),
    }
    sys.stdout.write(json.dumps(facts, ensure_ascii=False) + "\n")
    sys.exit(bool(tally.invalid))


def ask_all(engine: Engine, schemas: list[Any], max_tokens: int) -> Tally:
    """One question for each of `schemas`, up to four in flight."""
    tally, asked, waiting = Tally(), dict[str, Any](), list(enumerate(schemas))[::-1]
    rng = random.Random(1)
    while waiting or engine.has_work:
        while waiting and len(asked) < 4:
            number, schema = waiting.pop()
            prompt = f"{rng.choice(PROMPTS)} ({number})"
            sampling = {"temperature": rng.choice((0.0, 0.7, 1.5)), "seed": number, "max_tokens": max_tokens}
            start = time.perf_counter()
            try:
                request = GenerationRequest(
                    str(number), (Message("user", prompt),), schema=json.dumps(schema), **sampling
                )
                engine.submit(request)
                asked[str(number)] = schema
            except BadParameter as error:
                tally.refused[" ".join(str(error).split()[:12])] += 1
            tally.slowest_s = max(tally.slowest_s, time.perf_counter() - start)
        for event in engine.step():
            if isinstance(event, Finished):
                judge(tally, asked.pop(event.request_id), event)
            elif isinstance(event, Failed):
                tally.failed[_kind(event.error)] += 1
                asked.pop(event.request_id)
    return tally


def judge(tally: Tally, schema: Any, answer: Finished) -> None:
    """Count what became of one answer."""
    if answer.finish_reason == "length":
        tally.cut += 1
        return
    try:
        answered = json.loads(answer.text)
        validator = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
        validator(schema).validate(answered)
        tally.valid += 1
    except (ValueError, jsonschema.ValidationError) as error:
        tally.invalid.append((schema, f"{answer.text!r}: {str(error).splitlines()[0]}"))
    except Exception as error:  # noqa: BLE001 - the suite has schemas that the judge itself cannot read
        tally.unjudged[type(error).__name__] += 1


def _kind(error: EdgeError) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split()[:16])}"


def of_suite(folder: Path) -> Iterator[Any]:
    """The schemas of the suite's drafts, each told to be of its draft."""
    for draft, name in DRAFTS.items():
        for path in sorted((folder / "tests" / draft).glob("*.json")):
            for group in json.loads(path.read_text(encoding="utf-8")):
                schema = group["schema"]
                yield {"$schema": name, **schema} if isinstance(schema, dict) else schema


def random_schemas(count: int, seed: int) -> Iterator[Any]:
    """Schemas of all kinds that agents and forms use, nested up to four deep."""
    rng = random.Random(seed)
    for _ in range(count):
        yield _schema(rng, DEPTH)


def _schema(rng: random.Random, depth: int) -> dict[str, Any]:
    kinds = [_string, _number, _integer, _enumeration, _simple]
    if depth:
        kinds += [_object, _object, _object, _array, _any_of]
    if depth == DEPTH:  # references are from the root
        kinds.append(_reference)
    return rng.choice(kinds)(rng, depth)


def _string(rng: random.Random, _: int) -> dict[str, Any]:
    low = rng.randrange(4)
    return rng.choice(
        (
            {"type": "string"},
            {"type": "string", "minLength": low, "maxLength": low + rng.randrange(20)},
            {"type": "string", "pattern": rng.choice((r"^[a-z]{2,8}$", r"^\d{3}-\d{4}$", r"^(yes|no)!?$", r"[0-9]"))},
            {"type": "string", "format": rng.choice(("date", "time", "date-time", "uuid", "ipv4", "email"))},
        )
    )


def _number(rng: random.Random, _: int) -> dict[str, Any]:
    low = rng.choice((-1000, -1, 0, 0.5, 10))
    return rng.choice(
        ({"type": "number"}, {"type": "number", "minimum": low, "maximum": low + rng.choice((1, 7, 999))})
    )


def _integer(rng: random.Random, _: int) -> dict[str, Any]:
    low = rng.choice((-50, 0, 1, 100))
    bounds = {"exclusiveMinimum": low, "maximum": low + rng.choice((1, 9, 999, 123456))}
    return rng.choice(({"type": "integer"}, {"type": "integer", **bounds}))


def _enumeration(rng: random.Random, _: int) -> dict[str, Any]:
    values = rng.sample(["click", "type", "", "ü", 'a"b', 1, 2.5, None, True, [1, 2], {"a": 1}], rng.randrange(1, 6))
    return {"const": values[0]} if len(values) == 1 else {"enum": values}


def _simple(rng: random.Random, _: int) -> dict[str, Any]:
    return rng.choice(
        ({"type": "boolean"}, {"type": "null"}, {"type": ["string", "null"]}, {"type": ["integer", "boolean"]})
    )


def _object(rng: random.Random, depth: int) -> dict[str, Any]:
    names = rng.sample(WORDS, rng.randrange(1, 6))
    schema: dict[str, Any] = {"type": "object", "properties": {name: _schema(rng, depth - 1) for name in names}}
    schema["required"] = names if rng.random() < 0.7 else rng.sample(names, rng.randrange(len(names)))
    if rng.random() < 0.8:
        schema["additionalProperties"] = rng.choice((False, False, {"type": "integer"}))
    return schema


def _array(rng: random.Random, depth: int) -> dict[str, Any]:
    low = rng.randrange(3)
    if rng.random() < 0.3:
        prefix = [_schema(rng, depth - 1) for _ in range(rng.randrange(1, 4))]
        return {"type": "array", "prefixItems": prefix, "items": False, "minItems": len(prefix)}
    return {"type": "array", "items": _schema(rng, depth - 1), "minItems": low, "maxItems": low + rng.randrange(4)}


def _any_of(rng: random.Random, depth: int) -> dict[str, Any]:
    return {"anyOf": [_schema(rng, depth - 1) for _ in range(rng.randrange(1, 4))]}


def _reference(rng: random.Random, depth: int) -> dict[str, Any]:
    """One definition used twice, or a list that holds itself."""
    if rng.random() < 0.5:
        return {
            "$defs": {"one": _schema(rng, depth - 1)},
            "type": "object",
            "properties": {"a": {"$ref": "#/$defs/one"}, "b": {"$ref": "#/$defs/one"}},
            "required": ["a", "b"],
            "additionalProperties": False,
        }
    node = {"type": "object", "properties": {"value": {"type": "integer"}, "next": {"$ref": "#/$defs/node"}}}
    return {"$defs": {"node": {**node, "required": ["value"], "additionalProperties": False}}, "$ref": "#/$defs/node"}


if __name__ == "__main__":
    main()
