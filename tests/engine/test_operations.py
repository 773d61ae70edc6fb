"""Ten thousand operations on sessions of a real (tiny) bundle, with a cache that is much too small for them.

Whatever was asked, edited, forked, dropped, saved, restored, cancelled and pushed out before: an answer has the tokens
and the bits that an engine which finds nothing again gives, and when nothing runs nothing is held. (What was dropped
approximately is answered otherwise, so of that only the second is checked.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_kernels.library import KernelLibrary
from edge_runtime.engine.bundle_runner import BundleRunner, RunnerSettings
from edge_runtime.engine.dropping import drop
from edge_runtime.engine.engine import Engine
from edge_runtime.engine.events import Delta, Event, Finished, TokenLogprob
from edge_runtime.engine.request import GenerationRequest, SessionTurn
from edge_runtime.engine.session import Sessions
from edge_runtime.engine.session_files import SessionFiles
from edge_runtime.engine.session_state import SessionLimits
from edge_runtime.engine.settings import EngineSettings
from edge_runtime.errors import Cancelled, EdgeError
from edge_runtime.model.bundle import open_bundle
from edge_runtime.model.conversation import ImagePart, Message, Part, TextPart
from edge_runtime.model.graph import GraphSettings
from edge_runtime.model.paged_kv_cache import PagedKVCache
from edge_runtime.vision.image import ImageLimits

NUM_EXAMPLES, NUM_OPERATIONS = 200, 50
CONTEXT, CACHE_TOKENS, FEATURE_BYTES, SESSION_BYTES = 768, 1024, 40_000, 300_000
SCREENS = [np.random.default_rng(seed).integers(0, 256, (64, 96, 3), dtype=np.uint8) for seed in range(6)]
Answer = tuple[tuple[int, ...], tuple[TokenLogprob, ...]]

pick = st.integers(0, 99)
VERBS = [
    "ask",
    "look",
    "edit",
    "again",
    "fork",
    "drop",
    "forget",
    "save",
    "cancel",
    "supersede",
    "together",
    "crowd",
    "close",
]
OPERATIONS = st.tuples(st.sampled_from(VERBS), pick, pick)


@dataclass
class World:
    """The engine under test, one that finds nothing again, and the sessions of one example."""

    runner: BundleRunner
    engine: Engine
    cold: Engine
    sessions: list[str]
    folder: Path
    number: int = 0

    def submit(self, messages: tuple[Message, ...], place: SessionTurn | None) -> GenerationRequest:
        self.number += 1
        request = GenerationRequest(f"r{self.number}", messages, session=place, max_tokens=4, num_logprobs=1)
        self.engine.submit(request)
        return request

    def ask(self, session_id: str, *parts: Part, turn: int | None = None) -> None:
        """A question, whose answer is compared with the other engine's."""
        messages = (Message("user", parts),) if parts else ()
        self.submit(messages, SessionTurn(session_id, turn))
        self.settle()
        self.compare(session_id, self.answers[f"r{self.number}"])

    def settle(self) -> None:
        """Run until nothing is left to do."""
        events: list[Event] = []
        while self.engine.has_work:
            events += self.engine.step()
        self.answers = answers_of(events)

    def compare(self, session_id: str, answer: Answer) -> None:
        session = self.engine.sessions._sessions[session_id]
        if any(getattr(part, "dropped", 0) for message in session.messages for part in message.content):
            return
        history, salt = session.messages[:-1], session.key_salt or ""
        request = GenerationRequest("cold", history, max_tokens=4, num_logprobs=1, cache_salt=salt)
        expected = answers_of(list(self.cold.generate(request)))["cold"]
        assert answer == expected

    def check(self) -> None:
        """Nothing is held when nothing runs, and no budget is exceeded."""
        cache = self.runner.kv_cache
        assert isinstance(cache, PagedKVCache)
        assert not self.engine.has_work
        assert cache.free_tokens == cache.max_tokens
        assert not cache._references.any()
        assert sorted([*cache._free, *cache._kept]) == list(range(cache.num_blocks))
        assert set(cache._kept) == {*cache._key_of, *cache._parts}
        assert {key: block for block, keys in cache._parts.items() for key in keys} == {
            key: block for key, (block, _) in cache._part_of.items()
        }
        assert {block: key for key, block in cache._block_of.items()} == cache._key_of
        assert self.runner.media.feature_bytes <= FEATURE_BYTES
        assert self.engine.sessions.num_bytes <= SESSION_BYTES
        assert len(self.engine.sessions._asked) == 0


def answers_of(events: list[Event]) -> dict[str, Answer]:
    """Tokens and log-probabilities of every request that was answered; the others were cancelled."""
    logprobs: dict[str, list[TokenLogprob]] = {}
    answers = {}
    for event in events:
        if isinstance(event, Delta):
            logprobs.setdefault(event.request_id, []).extend(event.logprobs or ())
        elif isinstance(event, Finished):
            answers[event.request_id] = event.token_ids, tuple(logprobs[event.request_id])
        else:
            assert isinstance(event.error, Cancelled), event
    return answers


@pytest.fixture(scope="module")
def engines(tiny_bundle_edge: Path, kernel_library: KernelLibrary) -> tuple[BundleRunner, Engine, Engine]:
    """One that has little room, and one that tokenizes as it does and finds nothing again."""
    chosen = RunnerSettings(
        CONTEXT, CACHE_TOKENS, None, GraphSettings(1, kernels=kernel_library), ImageLimits(), "int8",
        prefill_chunk=48, feature_cache_bytes=FEATURE_BYTES,
    )  # fmt: skip
    bundle = open_bundle(tiny_bundle_edge)
    runner = BundleRunner(bundle, chosen)
    cold = BundleRunner(bundle, replace(chosen, feature_cache_bytes=0))
    cold._prompts = runner._prompts  # an answer in a history is tokenized as drawn, in both
    assert isinstance(cold.kv_cache, PagedKVCache)
    cold.kv_cache.enter = lambda key, block: None  # type: ignore[method-assign]
    few = EngineSettings(prefill_chunk=48, max_running=3)
    return runner, Engine(runner, few), Engine(cold, few)


@pytest.mark.timeout(1800)  # a minute or two, on two cores that do nothing else
@settings(max_examples=NUM_EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(st.lists(OPERATIONS, min_size=NUM_OPERATIONS, max_size=NUM_OPERATIONS))
def test_no_history_of_operations_changes_an_answer(
    engines: tuple[BundleRunner, Engine, Engine],
    tmp_path_factory: pytest.TempPathFactory,
    operations: list[tuple[str, int, int]],
) -> None:
    runner, engine, cold = engines
    engine.sessions = Sessions(SessionLimits(max_sessions=6, max_bytes=SESSION_BYTES))
    engine.saving.sessions = engine.sessions
    world = World(runner, engine, cold, [], tmp_path_factory.getbasetemp() / "saved-session")
    for verb, first, second in operations:
        if not world.sessions:
            world.sessions.append(engine.sessions.open((Message("system", "you are an agent " * 5),)).session_id)
        session_id = world.sessions[first % len(world.sessions)]
        try:
            carry_out(world, verb, session_id, second)
        except EdgeError as error:
            assert error.code in ("context_overflow", "too_many_sessions", "bad_parameter"), error
            world.settle()  # what was asked together with it
            if error.code != "bad_parameter":  # it has grown too long: begin another one
                engine.sessions.close(session_id)
                world.sessions.remove(session_id)
        world.check()
    assert engine.cache_info.cached_tokens > 0


def carry_out(  # noqa: PLR0912 - one case for each verb
    world: World, verb: str, session_id: str, number: int
) -> None:
    sessions = world.engine.sessions
    question, screen = TextPart(f"what of {number}? " * (1 + number % 5)), ImagePart(SCREENS[number % len(SCREENS)])
    turns = sessions.state(session_id).num_turns
    match verb:
        case "ask":
            world.ask(session_id, question)
        case "look":
            world.ask(session_id, screen, question)
        case "edit":
            world.ask(session_id, question, screen, turn=number % max(turns, 1))
        case "again":
            world.ask(session_id, turn=-1 - number % max(turns, 1))
        case "fork":
            world.sessions.append(sessions.fork(session_id, number % turns if turns else None).session_id)
        case "drop":
            sessions.change(session_id, without_pictures)
        case "forget":
            sessions.change(session_id, partial(drop, num_kept=1, approximate=True))
        case "save":
            files = SessionFiles(world.engine.saving)
            files.save(session_id, world.folder)
            world.sessions.append(files.restore(world.folder).session_id)
        case "cancel" | "supersede":
            place = SessionTurn(session_id)
            stopped = world.submit((Message("user", [screen, question]),), place)
            for _ in range(number % 6):
                world.engine.step()
            if verb == "supersede":
                world.submit((Message("user", [question]),), replace(place, supersede=True))
            else:
                world.engine.cancel(stopped.request_id)
            world.settle()
        case "together":
            asked = {world.submit((Message("user", [question, screen]),), SessionTurn(one)).request_id: one
                     for one in world.sessions[:3]}  # fmt: skip
            world.settle()
            for request_id, one in asked.items():
                world.compare(one, world.answers[request_id])
        case "crowd":  # a long chat of somebody else pushes the others' blocks out
            world.submit((Message("user", f"{number} " * (CONTEXT // 3)),), None)
            world.settle()
        case "close":
            sessions.close(session_id)
            world.sessions.remove(session_id)


def without_pictures(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    return tuple(
        Message(message.role, [part for part in message.content if isinstance(part, TextPart)]) for message in messages
    )
