"""What an answer must look like, and when a thought ends: with a runner whose logits are noise or a script."""

import json
from typing import Any

import jsonschema
import numpy as np
import pytest

from edge_runtime.engine.events import Delta, Failed, Finished
from edge_runtime.engine.repetition import MIN_TOKENS
from edge_runtime.errors import BadParameter
from edge_runtime.model.cancellation import CancelToken
from tests.engine.fake_runner import END_THINK, EOS, FakeCache, FakeRunner, engine_of, request, run_all

SCHEMA = {
    "type": "object",
    "properties": {
        "action": {"enum": ["click", "type"]},
        "x": {"type": "integer", "minimum": 0, "maximum": 999},
        "sure": {"type": "boolean"},
    },
    "required": ["action", "x", "sure"],
    "additionalProperties": False,
}


def runner_of(**script: list[int]) -> FakeRunner:
    return FakeRunner(max_context=4000, kv_cache=FakeCache(8000), script=script)


def answer(runner: FakeRunner, text: str = "hello", **fields: Any) -> Finished:
    engine = engine_of(runner)
    engine.submit(request("a", text, **fields))
    (*_, last) = run_all(engine)["a"]
    assert isinstance(last, Finished), last
    return last


def spell(text: str) -> list[int]:
    return list(text.encode())


@pytest.mark.parametrize("seed", range(20))
def test_whatever_the_model_says_the_answer_is_json_of_the_schema(seed: int) -> None:
    done = answer(runner_of(), f"ask {seed}", schema=json.dumps(SCHEMA), max_tokens=300, temperature=1.5, seed=seed)
    assert done.finish_reason == "stop"
    jsonschema.validate(json.loads(done.text), SCHEMA)
    assert done.timings.forced_tokens > 10


def test_what_has_to_come_is_run_as_one_chunk() -> None:
    runner = runner_of()
    done = answer(runner, schema=json.dumps(SCHEMA), max_tokens=300)
    most = max(count for run in runner.forwards[2:] for _, count in run)
    assert most == 4  # of the prefill's chunk: `{"action": "` is longer, so it takes several
    assert len(runner.forwards) < done.timings.output_tokens


def test_log_probabilities_do_not_change_the_answer_and_are_the_models_own() -> None:
    fields = {"schema": json.dumps(SCHEMA), "max_tokens": 300, "temperature": 1.0, "seed": 3}
    plain = answer(runner_of(), **fields)
    runner = runner_of()
    engine = engine_of(runner)
    engine.submit(request("a", num_logprobs=2, **fields))
    events = run_all(engine)["a"]
    told = [one for event in events if isinstance(event, Delta) for one in event.logprobs or ()]
    assert tuple(one.token_id for one in told) == plain.token_ids
    tokens = spell("hello")
    log = runner.prepare(request("a"), CancelToken())
    for one in told:
        logits = runner.logits(log, tokens).astype(np.float64)
        wanted = logits[one.token_id] - np.log(np.exp(logits).sum())
        assert one.logprob == pytest.approx(wanted, abs=1e-4)
        assert one.top[0][0] == int(np.argmax(logits))
        tokens.append(one.token_id)


@pytest.mark.parametrize(
    ("fields", "fits"),
    [
        ({"regex": r"\d{4}-\d{2}"}, lambda text: len(text) == 7 and text[4] == "-"),
        ({"choice": ("yes", "no", 'may"be')}, lambda text: text in ("yes", "no", 'may"be')),
        ({"lark": 'start: "a" B\nB: /[0-9]/'}, lambda text: text[0] == "a" and text[1].isdigit() and len(text) == 2),
        (
            {"schema": '{"type": "array", "items": {"const": 1}}'},
            lambda text: set(json.loads(text)) <= {1},
        ),
    ],
)
def test_every_kind_of_grammar_holds(fields: dict[str, Any], fits: Any) -> None:
    for seed in range(5):
        done = answer(runner_of(), f"{seed}", max_tokens=100, temperature=2.0, seed=seed, ignore_eos=True, **fields)
        assert done.finish_reason == "stop"
        assert fits(done.text)


def test_an_answer_that_is_cut_says_so() -> None:
    done = answer(runner_of(), schema=json.dumps(SCHEMA), max_tokens=9)
    assert (done.finish_reason, done.text) == ("length", '{"action"')


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"schema": "{"}, "schema is not JSON"),
        ({"schema": "[1]"}, "wanted a JSON schema"),
        ({"schema": '{"type": "number!"}'}, "Invalid type: number!"),
        ({"schema": '{"$ref": "http://a/b.json"}'}, "does not fetch"),
        ({"schema": '{"$ref": "#"}'}, "allows nothing"),
        ({"schema": json.dumps({"a": [[]]}).replace("[]", "[" * 80 + "]" * 80)}, "flatter"),
        ({"regex": "(?=a)b"}, "look-around"),
        ({"regex": "["}, "unclosed"),
        ({"lark": "start: x"}, "unknown name"),
        ({"regex": "a", "choice": ("b",)}, "one of them"),
        ({"regex": "a", "stop": ("b",)}, "leave stop out"),
        ({"schema": "false"}, "allows nothing"),
        ({"schema": '{"multipleOf": 3000017}'}, "least common multiple"),
        ({"schema": '{"allOf": [{"multipleOf": 101}, {"multipleOf": 0.0103}]}'}, "least common multiple"),
        ({"schema": '{"x-guidance": {"lenient": true}}'}, "x-guidance"),
        ({"schema": ""}, "schema is empty"),
        ({"choice": ()}, "choice is empty"),
        ({"effort": "huge"}, "must be one of none"),
        ({"effort": "low", "thinking_budget": 3}, "give one of them"),
        ({"thinking_budget": -1}, "thinking_budget is -1"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_any_work(fields: dict[str, Any], said: str) -> None:
    runner = runner_of()
    engine = engine_of(runner)
    with pytest.raises(BadParameter, match=said):
        engine.submit(request("a", **fields))
    assert not runner.forwards
    assert not engine.has_work


def test_a_budget_closes_the_thought_and_the_answer_follows() -> None:
    thought = spell("I think and think and think")
    said = [*thought[:8], 10, END_THINK, 10, 10, *spell("yes"), EOS]
    done = answer(runner_of(**{"a<think>": said}), "a<think>", thinking_budget=8, max_tokens=40)
    assert (done.reasoning, done.text, done.thought_end) == ("I think ", "yes", "budget")
    assert done.token_ids == tuple(said)
    assert (done.timings.reasoning_tokens, done.timings.forced_tokens) == (8, 4)


def test_a_budget_of_nothing_and_no_effort_are_the_same() -> None:
    script = {"a<think>": [10, END_THINK, 10, 10, *spell("yes"), EOS]}
    for fields in ({"thinking_budget": 0}, {"effort": "none"}):
        done = answer(runner_of(**script), "a<think>", max_tokens=40, **fields)
        assert (done.reasoning, done.text, done.thought_end) == ("", "yes", "budget")


def test_a_thought_that_ends_itself_is_left_alone() -> None:
    said = [*spell("hm"), END_THINK, *spell("yes"), EOS]
    done = answer(runner_of(**{"a<think>": said}), "a<think>", thinking_budget=8, max_tokens=40)
    assert (done.token_ids, done.thought_end) == (tuple(said), "itself")
    assert not done.timings.forced_tokens


@pytest.mark.parametrize("budget", [None, 2, 5, 100])
def test_the_grammar_begins_behind_the_thought(budget: int | None) -> None:
    runner = runner_of(**{"a<think>": [*spell("hmmm"), END_THINK, *[0] * 200]})
    done = answer(
        runner, "a<think>", thinking_budget=budget, schema=json.dumps(SCHEMA), max_tokens=200, num_logprobs=None
    )
    assert done.reasoning == "hmmm"[: budget or 4]
    assert done.thought_end == ("budget" if budget == 2 else "itself")
    jsonschema.validate(json.loads(done.text), SCHEMA)


def test_a_thought_that_repeats_itself_is_told_and_ended_if_asked() -> None:
    said = [*spell("ab" * 200), END_THINK, *spell("yes"), EOS]
    told = answer(runner_of(**{"a<think>": said}), "a<think>", max_tokens=900)
    assert (told.thought_repeats, told.thought_end, told.text) == (True, "itself", "yes")
    runner = runner_of(**{"a<think>": [*said[:MIN_TOKENS], 10, END_THINK, 10, 10, *spell("yes"), EOS]})
    ended = answer(runner, "a<think>", max_tokens=900, stop_on_repetition=True)
    assert (ended.thought_repeats, ended.thought_end, ended.text) == (True, "repetition", "yes")
    assert ended.timings.reasoning_tokens == MIN_TOKENS


def test_one_chats_grammar_is_no_others() -> None:
    runner = runner_of()
    engine = engine_of(runner)
    alone = answer(runner_of(), "plain", max_tokens=30)
    engine.submit(request("a", "one", schema=json.dumps(SCHEMA), max_tokens=200))
    engine.submit(request("b", "plain", max_tokens=30))
    engine.submit(request("c", "two", choice=("x", "y"), max_tokens=200))
    ends = {key: events[-1] for key, events in run_all(engine).items()}
    assert not any(isinstance(end, Failed) for end in ends.values())
    jsonschema.validate(json.loads(ends["a"].text), SCHEMA)
    assert ends["b"].token_ids == alone.token_ids
    assert ends["c"].text in ("x", "y")


@pytest.mark.parametrize("seed", range(100))
def test_a_thought_without_an_end_still_leaves_room_for_a_valid_answer(seed: int) -> None:
    rng = np.random.default_rng(seed)
    budget = int(rng.integers(0, 60))
    longest = len('{"action": "click", "x": 999, "sure": false}')  # the tokenizer's tokens are bytes
    runner = runner_of()
    runner.logits = never_ending_thoughts(runner.logits)  # type: ignore[method-assign]
    done = answer(
        runner,
        f"think {seed}<think>",
        thinking_budget=budget,
        schema=json.dumps(SCHEMA),
        max_tokens=budget + 4 + longest,
        temperature=float(rng.choice([0.0, 1.0, 3.0])),
        seed=seed,
    )
    assert (done.finish_reason, done.thought_end) == ("stop", "budget")
    assert done.timings.reasoning_tokens == budget
    jsonschema.validate(json.loads(done.text), SCHEMA)


def never_ending_thoughts(logits: Any) -> Any:
    """As `logits`, without a token that ends a thought or an answer."""

    def without_ends(log: Any, tokens: list[int]) -> Any:
        row = logits(log, tokens)
        row[[END_THINK, EOS]] = -100.0
        return row

    return without_ends


@pytest.mark.parametrize("logprobs", [None, 1])
def test_an_end_inside_a_thought_is_the_thoughts_where_an_answer_has_to_follow(logprobs: int | None) -> None:
    said = [*spell("hm"), EOS, *[0] * 100]
    fields = {"choice": ("yes",), "max_tokens": 40, "num_logprobs": logprobs}
    done = answer(runner_of(**{"a<think>": said}), "a<think>", **fields)
    assert (done.reasoning, done.text, done.thought_end, done.finish_reason) == ("hm", "yes", "itself", "stop")
    assert EOS not in done.token_ids
    free = answer(runner_of(**{"a<think>": said}), "a<think>", max_tokens=40)
    assert (free.reasoning, free.text, free.finish_reason) == ("hm", "", "stop")


@pytest.mark.parametrize("text", ["<think>", "x</think>y", "<eos>", "a<eos>b", "<image>", "\x7f"])
def test_text_that_spells_a_control_token_stays_text(text: str) -> None:
    assert answer(runner_of(), choice=(text,), max_tokens=40).text == text
    done = answer(runner_of(), schema=json.dumps({"const": text}), max_tokens=60)
    assert json.loads(done.text) == text
