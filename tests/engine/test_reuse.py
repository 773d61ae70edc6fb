"""What was computed once is not computed again, and nobody can tell from an answer."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.engine.engine import Engine
from edge_runtime.engine.events import Failed, Finished
from edge_runtime.engine.request import GenerationRequest
from edge_runtime.model.conversation import ImagePart, Message, Part, TextPart
from tests.engine.fake_runner import TOKENS_PER_IMAGE, FakeCache, FakeRunner, by_request, engine_of, last_of

BLOCK = 4


def engine_that(reuses: bool, max_tokens: int = 400, chunk: int = 8) -> tuple[Engine, FakeRunner]:
    cache = FakeCache(max_tokens, BLOCK, reuses=reuses)
    runner = FakeRunner(kv_cache=cache, max_context=max_tokens)
    return engine_of(runner, prefill_chunk=chunk, max_running=3), runner


def ask(engine: Engine, *parts: str | bytes, max_tokens: int = 5, name: str = "r", salt: str = "") -> Finished:
    """Bytes are an image of that digest."""
    content: list[Part] = [TextPart(part) if isinstance(part, str) else ImagePart(part) for part in parts]
    engine.submit(GenerationRequest(name, (Message("user", content),), max_tokens=max_tokens, cache_salt=salt))
    events = []
    while engine.has_work:
        events += engine.step()
    return last_of(by_request(events), name)


def test_the_same_question_again_computes_its_last_token_alone() -> None:
    engine, runner = engine_that(reuses=True)
    first = ask(engine, "x" * 20)
    num_runs = len(runner.forwards)
    again = ask(engine, "x" * 20)
    assert (first.timings.cached_tokens, again.timings.cached_tokens) == (0, 19)
    assert (first.timings.computed_tokens, again.timings.computed_tokens) == (20, 1)
    assert again.token_ids == first.token_ids
    assert runner.forwards[num_runs] == [("r", 1)]


def test_what_two_prompts_have_in_common_is_found_to_the_token() -> None:
    engine, _ = engine_that(reuses=True)
    ask(engine, "x" * 18 + "ab")
    edited, shorter, longer = (ask(engine, "x" * count + "cd") for count in (18, 10, 19))
    assert [one.timings.cached_tokens for one in (edited, shorter)] == [18, 8]  # the middle is found by whole blocks
    assert longer.timings.cached_tokens == 18
    again = ask(engine, "x" * 18 + "a")
    assert again.timings.cached_tokens == 18


def test_nothing_is_found_under_another_salt() -> None:
    engine, _ = engine_that(reuses=True)
    salts = ["", "a", "b", "", "a", "b", "ab"]
    asked = [ask(engine, "x" * 20, salt=salt) for salt in salts]
    assert [one.timings.cached_tokens for one in asked] == [0, 0, 0, 19, 19, 19, 0]
    assert len({one.token_ids for one in asked}) == 1


def test_a_history_sent_again_is_found_with_the_answer_in_it() -> None:
    engine, _ = engine_that(reuses=True)
    script = "b" * 30
    engine._runner.script["a" * 10] = [ord(char) for char in script]  # type: ignore[attr-defined]
    first = ask(engine, "a" * 10, max_tokens=30)
    assert first.text == script
    again = ask(engine, "a" * 10 + script + "c")
    assert again.timings.cached_tokens == 39  # of 41; the last token drawn was never run


def test_an_image_stands_as_what_it_shows() -> None:
    engine, runner = engine_that(reuses=True)
    ask(engine, b"one", "what is this?")
    assert runner.encodes == ["r"]
    same = ask(engine, b"one", "what is this?")
    assert (runner.encodes, same.timings.vision_cached) == (["r"], 1)
    other = ask(engine, b"two", "what is this?")
    assert (runner.encodes, other.timings.cached_tokens, other.timings.vision_cached) == (["r"] * 2, 0, 0)
    earlier = ask(engine, "xyz ", b"one", "what is this?")
    assert earlier.timings.cached_tokens == 0
    assert len(runner.encodes) == 3


def test_an_image_that_is_cached_in_part_is_encoded_for_the_rest() -> None:
    engine, runner = engine_that(reuses=True)
    ask(engine, b"one", "tail")
    assert TOKENS_PER_IMAGE % BLOCK
    again = ask(engine, b"one", "another end")
    assert again.timings.cached_tokens == BLOCK
    assert (len(runner.encodes), again.timings.vision_cached) == (2, 0)


def test_chats_that_run_at_once_share_what_they_have_in_common() -> None:
    engine, runner = engine_that(reuses=True, max_tokens=60)
    ask(engine, "s" * 32, max_tokens=1)
    for name in ("a", "b", "c"):  # 41 tokens each: 60 have no room for two of them, but for what they share
        content = [TextPart("s" * 32 + name * 4)]
        engine.submit(GenerationRequest(name, (Message("user", content),), max_tokens=5))
    events = engine.step()
    assert engine.num_running == 2
    while engine.has_work:
        events += engine.step()
    ended = by_request(events)
    assert [last_of(ended, name).timings.cached_tokens for name in ("a", "b", "c")] == [32, 32, 32]
    assert runner.kv_cache.free_tokens == 60


def test_a_cancelled_chat_leaves_what_it_has_computed() -> None:
    engine, _ = engine_that(reuses=True)
    engine.submit(GenerationRequest("c", (Message("user", "x" * 30),), max_tokens=5))
    engine.step()
    engine.step()
    engine.cancel("c")
    assert isinstance(engine.step()[-1], Failed)
    assert ask(engine, "x" * 30).timings.cached_tokens == 16


def test_info_tells_what_is_held_what_is_kept_and_what_was_found() -> None:
    engine, runner = engine_that(reuses=True, max_tokens=60)
    assert (engine.cache_info.kv_tokens, engine.cache_info.kv_block_tokens) == (60, BLOCK)
    runner.feature_bytes, runner.max_feature_bytes = 5, 7
    ask(engine, "x" * 20, b"one", max_tokens=1)
    told = engine.cache_info
    assert (told.kv_held_tokens, told.kv_kept_tokens, told.running, told.waiting) == (0, 28, 0, 0)
    assert (told.prompt_tokens, told.cached_tokens, told.images, told.vision_cached) == (27, 0, 1, 0)
    assert (told.feature_bytes, told.max_feature_bytes, told.kv_bytes_per_token) == (5, 7, runner.kv_bytes_per_token)
    for name in ("a", "b", "c"):
        engine.submit(GenerationRequest(name, (Message("user", "x" * 20 + name * 10),), max_tokens=5))
    engine.step()
    told = engine.cache_info
    assert (told.running, told.waiting) == (2, 1)  # 36 tokens each, 20 of them shared
    assert (told.kv_held_tokens, told.kv_kept_tokens) == (52, 8)
    assert (told.prompt_tokens, told.cached_tokens) == (27 + 2 * 30, 2 * 20)
    while engine.has_work:
        engine.step()
    assert engine.cache_info.kv_held_tokens == 0
    assert engine.cache_info.cached_tokens == 3 * 20
    ask(engine, "y" * 20, b"two", b"two", max_tokens=1)
    ask(engine, "y" * 20, b"two", b"two", max_tokens=1)
    assert (engine.cache_info.images, engine.cache_info.vision_cached) == (5, 1)


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["ask", "ask", "ask", "cancel", "step"]),
        st.lists(
            st.one_of(st.sampled_from([b"one", b"two"]), st.sampled_from(["ab", "abcdefgh", "x"])),
            min_size=1,
            max_size=6,
        ),
        st.integers(1, 9),
    ),
    max_size=25,
)


@given(ACTIONS, st.sampled_from([64, 100, 400]))
@settings(max_examples=200, deadline=None)
def test_no_answer_depends_on_what_was_found_in_the_cache(actions: list[tuple[str, list], int], room: int) -> None:  # type: ignore[type-arg]
    """Random questions that share beginnings, at once and in turn, some cancelled; in a cache that has to let go."""
    answers = []
    for reuses in (False, True):
        engine, runner = engine_that(reuses, room)
        events = []
        for number, (action, parts, max_tokens) in enumerate(actions):
            if action == "ask":
                content = [TextPart(part) if isinstance(part, str) else ImagePart(part) for part in parts]
                request = GenerationRequest(str(number), (Message("user", content),), max_tokens=max_tokens)
                if len(engine._runner.prepare(request, None).input_ids) + max_tokens <= room:  # type: ignore[arg-type]
                    engine.submit(request)
            elif action == "cancel":
                engine.cancel(str(number - 1))
            events += engine.step()
        while engine.has_work:
            events += engine.step()
        assert runner.kv_cache.free_tokens == runner.kv_cache.max_tokens
        assert not runner.kv_cache.out
        ended = by_request(events)
        answers.append({name: own[-1].token_ids for name, own in ended.items() if isinstance(own[-1], Finished)})
    both = answers[0].keys() & answers[1].keys()
    assert {name: answers[0][name] for name in both} == {name: answers[1][name] for name in both}


@pytest.mark.parametrize("chunk", [1, 3, 4, 7, 100])
def test_chunks_that_begin_anywhere_change_nothing(chunk: int) -> None:
    alone, _ = engine_that(reuses=False, chunk=chunk)
    engine, _ = engine_that(reuses=True, chunk=chunk)
    for length in (5, 8, 9, 17, 40):
        assert ask(engine, "q" * length).token_ids == ask(alone, "q" * length).token_ids
