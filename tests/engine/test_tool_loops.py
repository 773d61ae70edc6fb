"""Agents' loops with tools on a tiny model: calls, results with pictures, sessions, files; nothing computed twice."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from edge_export.options import ExportOptions
from edge_export.pipeline import export_bundle
from edge_kernels.library import KernelLibrary
from edge_runtime.engine.engine import Engine
from edge_runtime.engine.events import Finished
from edge_runtime.engine.request import GenerationRequest, SessionTurn
from edge_runtime.engine.session_files import SessionFiles
from edge_runtime.engine.turns import held_bytes, turn_starts
from edge_runtime.errors import BadPrompt
from edge_runtime.model.cancellation import CancelToken
from edge_runtime.model.conversation import ImagePart, Message
from edge_runtime.model.tools import tool_of
from tests.conftest import NoProgress
from tests.engine.tiny_engine import CHUNK, engine_of
from tests.tools_chat import HISTORY, TEMPLATE

RNG = np.random.default_rng(4)
SCREENS = [RNG.integers(0, 256, (64, 96, 3), dtype=np.uint8) for _ in range(3)]
CLICK = tool_of(
    {
        "name": "click",
        "description": "Click at a place, <in> thousandths.",
        "parameters": {
            "type": "object",
            "properties": {
                "y": {"type": "integer", "minimum": 0, "maximum": 999},
                "x": {"type": "integer", "minimum": 0, "maximum": 999},
                "button": {"enum": ["left", "right ö"]},
            },
            "required": ["y", "x", "button"],
            "additionalProperties": False,
        },
    }
)
WAIT = tool_of({"name": "wait", "parameters": {"type": "object", "properties": {}, "additionalProperties": False}})
TOOLS = (CLICK, WAIT)
QUESTION = Message("user", [ImagePart(SCREENS[0]), "Open the second mail."])


@pytest.fixture(scope="module")
def bundles(
    tiny_checkpoint: Path, kernel_library: KernelLibrary, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """The tiny model with a chat template that has tools, in both flavours."""
    folder = tmp_path_factory.mktemp("tools")
    checkpoint = Path(shutil.copytree(tiny_checkpoint, folder / "checkpoint"))
    (checkpoint / "chat_template.jinja").write_text(TEMPLATE)
    export_bundle(str(checkpoint), folder / "portable", ExportOptions(weights="fp32"), NoProgress())
    export_bundle(str(checkpoint), folder / "edge", ExportOptions(flavour="edge"), NoProgress(), kernel_library)
    return {flavour: folder / flavour for flavour in ("portable", "edge")}


@pytest.fixture(params=["portable", "edge"])
def engine(request: pytest.FixtureRequest, bundles: dict[str, Path], kernel_library: KernelLibrary) -> Engine:
    return engine_of(bundles[request.param], None if request.param == "portable" else kernel_library)


def asked(
    messages: Sequence[Message], session: str | None = None, turn: int | None = None, **options: object
) -> GenerationRequest:
    fixed = {"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False}
    fields = {**fixed, "max_tokens": 300, "temperature": 1.0, "seed": 5, **options}
    place = None if session is None else SessionTurn(session, turn)
    return GenerationRequest("r", messages, session=place, **fields)  # type: ignore[arg-type]


def ask(engine: Engine, *messages: Message, **fields: object) -> Finished:
    *_, last = engine.generate(asked(messages, **fields))  # type: ignore[arg-type]
    assert isinstance(last, Finished), last
    return last


def results(answer: Finished, number: int) -> list[Message]:
    """What the tools say: a word and a screen for each call."""
    screen = ImagePart(SCREENS[number % len(SCREENS)])
    return [Message("tool", ["done ", screen], tool_call_id=call.id) for call in answer.tool_calls]


def check_calls(answer: Finished) -> None:
    """Every call is one that its schema allows."""
    assert answer.finish_reason == "tool_calls"
    assert (answer.text, answer.malformed_calls) == ("", ())
    for call in answer.tool_calls:
        value = json.loads(call.arguments)
        if call.name == "click":
            assert list(value) == ["y", "x", "button"]
            assert 0 <= value["x"] <= 999
            assert value["button"] in ("left", "right ö")
        else:
            assert (call.name, value) == ("wait", {})


def test_a_loop_computes_only_what_is_new(engine: Engine) -> None:
    """A history of calls and results that is sent again has the tokens that were drawn."""
    history, before, least = [QUESTION], [], 0
    for number in range(4):
        prompt = engine._runner.prepare(asked(history), CancelToken()).short_ids.tolist()
        assert prompt[: len(before)] == before
        answer = ask(engine, *history, seed=number)
        check_calls(answer)
        assert answer.timings.cached_tokens >= least
        # What had to come last did not run; and `portable` finds again by prefill chunks.
        least = answer.timings.prompt_tokens + answer.timings.output_tokens - answer.timings.forced_tokens
        least -= 0 if is_edge(engine) else CHUNK
        before = prompt + list(answer.token_ids)
        history += [answer.message, *results(answer, number)]
    assert len(ask(engine, *history, tool_choice="none").tool_calls) == 0


def is_edge(engine: Engine) -> bool:
    return engine._runner.kv_cache.block_size == 64


def test_a_session_says_what_its_history_says(engine: Engine) -> None:
    session = engine.sessions.open().session_id
    history, new = [QUESTION], [QUESTION]
    for number in range(3):
        alone = ask(engine, *history, seed=number)
        inside = ask(engine, *new, session=session, seed=number)
        assert inside.token_ids == alone.token_ids
        assert inside.timings.prompt_tokens == alone.timings.prompt_tokens
        new = results(inside, number)
        history += [alone.message, *results(alone, number)]
    state = engine.sessions.state(session)
    assert state.num_turns == 1, "a tool's results continue a turn"
    kept = engine.sessions.messages(session)
    assert [message.role for message in kept][:3] == ["user", "assistant", "tool"]
    assert state.num_bytes == sum(map(held_bytes, (*kept, *TOOLS)))
    ask(engine, Message("user", "And the next?"), session=session, tool_choice="auto", max_tokens=4)
    with pytest.raises(BadPrompt, match="answers"):
        ask(engine, Message("tool", "x"), session=session)
    assert engine.sessions.state(session).num_turns == 2
    again = ask(engine, session=session, turn=0, seed=0)
    assert again.token_ids == ask(engine, QUESTION, seed=0).token_ids, "a question is answered anew without its calls"
    assert len(engine.sessions.messages(session)) == 2
    engine.sessions.close(session)
    assert engine.sessions.num_bytes == 0


def test_a_saved_session_goes_on_where_it_was(
    bundles: dict[str, Path], kernel_library: KernelLibrary, tmp_path: Path
) -> None:
    first, second = (engine_of(bundles["edge"], kernel_library) for _ in range(2))
    session = first.sessions.open().session_id
    answer = ask(first, QUESTION, session=session)
    answer = ask(first, *results(answer, 1), session=session)
    kept = first.sessions.messages(session)
    SessionFiles(first.saving).save(session, tmp_path / "s")
    restored = SessionFiles(second.saving).restore(tmp_path / "s").session_id
    found = second.sessions.messages(restored)
    assert [(m.role, m.tool_calls, m.tool_call_id) for m in found] == [
        (m.role, m.tool_calls, m.tool_call_id) for m in kept
    ]
    here, there = (
        ask(engine, *results(answer, 2), session=name) for engine, name in ((first, session), (second, restored))
    )
    assert there.token_ids == here.token_ids
    assert there.timings.cached_tokens == here.timings.cached_tokens
    assert there.timings.cached_tokens > here.timings.prompt_tokens // 2


def test_turns_begin_with_questions() -> None:
    messages = (Message("system", "s"), *HISTORY, Message("assistant", "so"), Message("user", "and?"), *HISTORY[1:])
    assert turn_starts(messages) == [1, 6]
    assert turn_starts(HISTORY[2:]) == []
