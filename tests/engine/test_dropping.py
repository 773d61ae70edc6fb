"""Dropping: what leaves a session's messages and the log, and what is found of it, with a model that has no weights."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_runtime.engine.dropping import drop, older_than
from edge_runtime.engine.engine import Engine
from edge_runtime.engine.events import Finished
from edge_runtime.engine.request import GenerationRequest, SessionTurn
from edge_runtime.errors import BadParameter
from edge_runtime.model.cancellation import CancelToken
from edge_runtime.model.conversation import ImagePart, Message, TextPart, VideoPart
from tests.engine.fake_runner import TOKENS_PER_IMAGE, FakeCache, FakeLog, FakeRunner, by_request, engine_of, last_of

BLOCK = 4


class SpellingRunner(FakeRunner):
    """Answers in letters, so that an answer's text says which tokens it was."""

    def logits(self, log: FakeLog, tokens: list[int]) -> NDArray[np.float32]:
        row = super().logits(log, tokens)
        row[: ord("a")] = row[ord("z") + 1 :] = -100
        return row


class Chatting:
    """An engine, sessions of it, and questions with a picture each."""

    def __init__(self, room: int = 800) -> None:
        self.runner = SpellingRunner(kv_cache=FakeCache(room, BLOCK, reuses=True), max_context=room)
        self.engine: Engine = engine_of(self.runner, prefill_chunk=8, max_running=2)
        self.sessions = self.engine.sessions
        self.number = 0

    def ask(self, session_id: str, *parts: str | bytes, turn: int | None = None) -> Finished:
        self.number += 1
        content = [TextPart(part) if isinstance(part, str) else ImagePart(part) for part in parts]
        request = GenerationRequest(
            str(self.number), (Message("user", content),), session=SessionTurn(session_id, turn), max_tokens=5
        )
        self.engine.submit(request)
        events = []
        while self.engine.has_work:
            events += self.engine.step()
        return last_of(by_request(events), str(self.number))

    def drop(self, session_id: str, num_kept: int, *, approximate: bool = True) -> None:
        self.sessions.change(session_id, lambda said: drop(said, num_kept, approximate=approximate))

    def keys(self, messages: tuple[Message, ...]) -> list[bytes]:
        log = self.runner.prepare(GenerationRequest("k", messages), CancelToken())
        return list(log.keys(BLOCK, len(log) // BLOCK))


def parts(messages: tuple[Message, ...]) -> list[tuple[object, int]]:
    """Every part: its text or picture, and in which drop it left."""
    return [
        (part.text, 0)
        if isinstance(part, TextPart)
        else (part.data if isinstance(part, ImagePart) else "video", part.dropped)
        for message in messages
        for part in message.content
    ]


def said(*content: str | bytes) -> tuple[Message, ...]:
    return tuple(Message("user", [TextPart(part) if isinstance(part, str) else ImagePart(part)]) for part in content)


def test_exactly_the_parts_leave_and_approximately_they_are_marked() -> None:
    video = Message("user", [VideoPart((b"f", b"g"), (0.0, 1.0)), TextPart("clip")])
    messages = (*said("hi", b"one"), video, *said(b"two", b"three"))
    assert parts(drop(messages, 2, approximate=False)) == [("hi", 0), ("clip", 0), (b"two", 0), (b"three", 0)]
    once = drop(messages, 3, approximate=True)
    assert parts(once) == [("hi", 0), (b"one", 1), ("video", 0), ("clip", 0), (b"two", 0), (b"three", 0)]
    twice = drop(once, 1, approximate=True)
    assert [number for _, number in parts(twice)] == [0, 1, 2, 0, 2, 0]
    assert drop(twice, 1, approximate=True) == twice
    assert parts(drop(twice, 1, approximate=False)) == [("hi", 0), ("clip", 0), (b"three", 0)]


def test_messages_that_lose_nothing_are_the_same_objects() -> None:
    messages = said("hi", b"one", b"two")
    changed = drop(messages, 1, approximate=True)
    assert [a is b for a, b in zip(messages, changed, strict=True)] == [True, False, True]


@pytest.mark.parametrize("wrong", [-1, True, 1.5, "2", None])
def test_older_than_takes_a_number_of_images(wrong: object) -> None:
    with pytest.raises(BadParameter, match="from 0"):
        older_than(wrong)  # type: ignore[arg-type]


def test_after_an_approximate_drop_only_what_is_new_is_computed() -> None:
    chatting = Chatting()
    session_id = chatting.sessions.open().session_id
    for name in (b"one", b"two", b"three"):
        before = chatting.ask(session_id, "what is it? ", name, " tell")
    chatting.drop(session_id, 1)
    num_encoded = len(chatting.runner.encodes)
    answer = chatting.ask(session_id, "and now?")
    new = len("and now?")
    assert answer.timings.prompt_tokens == before.timings.prompt_tokens + 5 + new - 2 * TOKENS_PER_IMAGE
    assert answer.timings.computed_tokens <= new + BLOCK
    assert len(chatting.runner.encodes) == num_encoded
    again = chatting.ask(session_id, "and now?")
    assert again.timings.computed_tokens <= new + BLOCK
    chatting.drop(session_id, 0)
    assert chatting.ask(session_id, "and now?").timings.computed_tokens <= new + BLOCK


def test_an_exact_drop_computes_what_follows_it_anew() -> None:
    chatting = Chatting()
    session_id = chatting.sessions.open().session_id
    for name in (b"one", b"two", b"three"):
        chatting.ask(session_id, "what is it? ", name, " tell")
    chatting.drop(session_id, 1, approximate=False)
    answer = chatting.ask(session_id, "and now?")
    assert answer.timings.cached_tokens == len("what is it? ")
    fresh = Chatting()
    messages = chatting.sessions.messages(session_id)[:-1]
    fresh.engine.submit(GenerationRequest("x", messages, max_tokens=5))
    events = []
    while fresh.engine.has_work:
        events += fresh.engine.step()
    assert last_of(by_request(events), "x").token_ids == answer.token_ids


def test_several_drops_without_a_question_between_them() -> None:
    chatting = Chatting()
    session_id = chatting.sessions.open().session_id
    for name in (b"one", b"two", b"three"):
        chatting.ask(session_id, "what is it? ", name, " tell")
    for num_kept in (2, 1, 0):
        chatting.drop(session_id, num_kept)
    assert chatting.ask(session_id, "and now?").timings.computed_tokens <= len("and now?") + BLOCK


def test_a_fork_drops_for_itself_and_an_edit_before_the_gap_is_exact_again() -> None:
    chatting = Chatting()
    session_id = chatting.sessions.open().session_id
    for name in (b"one", b"two"):
        chatting.ask(session_id, "what is it? ", name, " tell")
    fork = chatting.sessions.fork(session_id).session_id
    chatting.drop(fork, 1)
    child = chatting.sessions.fork(fork).session_id
    assert [number for _, number in parts(chatting.sessions.messages(child)) if number] == [1]
    assert not any(number for _, number in parts(chatting.sessions.messages(session_id)))
    for one in (session_id, fork, child):
        assert chatting.ask(one, "and now?").timings.computed_tokens <= len("and now?") + BLOCK
    edited = chatting.ask(child, "something else", turn=0)
    assert not any(number for _, number in parts(chatting.sessions.messages(child)))
    alone = Chatting()
    assert alone.ask(alone.sessions.open().session_id, "something else").token_ids == edited.token_ids


def test_a_log_with_gaps_shares_keys_with_others_up_to_the_first_gap_only() -> None:
    chatting = Chatting()
    messages = said("beginning", b"one", "mid" * 4, b"two", "the end of it all" * 2)
    whole, exact = chatting.keys(messages), chatting.keys(said("beginning", "mid" * 4, "the end of it all" * 2))
    first, both = (chatting.keys(drop(messages, number, approximate=True)) for number in (1, 0))
    num_before = len("beginning") // BLOCK
    assert whole[:num_before] == exact[:num_before] == first[:num_before] == both[:num_before]
    behind = [set(keys[num_before:]) for keys in (whole, exact, first, both)]
    assert sum(map(len, behind)) - len(behind[2] & behind[3]) == len(set.union(*behind))
    until_second_gap = (len("beginning") + len("mid" * 4)) // BLOCK
    assert first[:until_second_gap] == both[:until_second_gap]
    assert not set(first[until_second_gap:]) & set(both[until_second_gap:])
    others = drop(said("beginning", b"other", "mid" * 4, b"two", "the end of it all" * 2), 0, approximate=True)
    assert not set(chatting.keys(others)[num_before:]) & set(both)


def test_what_stays_keeps_its_positions_and_so_does_what_comes() -> None:
    chatting = Chatting()
    messages = said("beginning", b"one", "mid", b"two", "end", b"three", "!")
    whole = chatting.runner.prepare(GenerationRequest("k", messages), CancelToken())
    count = len(whole)
    whole._position_ids = np.stack([np.arange(count) + 10 * axis for axis in range(3)])
    marked = drop(drop(messages, 2, approximate=True), 1, approximate=True)
    for part, media in zip(
        (p for m in marked for p in m.content if isinstance(p, ImagePart)), whole.media, strict=True
    ):
        media.dropped = part.dropped
    ids, positions, later = whole.ids(0, count), whole.position_ids(0, count), whole.position_ids(count, count + 9)
    kept = np.flatnonzero(
        [not any(m.dropped and m.span.start <= i < m.span.stop for m in whole.media) for i in range(count)]
    )
    whole.drop_marked()
    assert len(whole) == whole.num_prompt == len(kept) == count - 2 * TOKENS_PER_IMAGE
    assert whole.ids(0, count).tolist() == ids[kept].tolist()
    assert whole.position_ids(0, len(whole)).tolist() == positions[:, kept].tolist()
    assert whole.position_ids(len(whole), len(whole) + 9).tolist() == later.tolist()
    assert [media.span.start for media in whole.media] == [len("beginningmidend")]
    whole.append(7)
    assert whole.output_ids == (7,)


def test_without_room_for_both_what_is_left_is_computed_with_its_gaps() -> None:
    chatting = Chatting(room=100)
    session_id = chatting.sessions.open().session_id
    chatting.ask(session_id, b"one", "x" * 60)
    chatting.drop(session_id, 0)
    answer = chatting.ask(session_id, "and now?")
    assert answer.timings.cached_tokens == 0
    assert chatting.runner.kv_cache.free_tokens == 100
    assert chatting.ask(session_id, "!").timings.computed_tokens <= 1 + BLOCK


ACTIONS = st.lists(
    st.tuples(st.sampled_from(["ask", "ask", "approximate", "exact", "fork", "edit", "fill"]), st.integers(0, 7)),
    max_size=25,
)


@given(ACTIONS, st.sampled_from([160, 800]))
@settings(max_examples=100, deadline=None)
def test_whatever_is_dropped_nothing_is_lost(actions: list[tuple[str, int]], room: int) -> None:
    """The fake model checks that the tokens in the cache are those of the log; here, that every block comes back."""
    chatting = Chatting(room)
    cache, ids = chatting.runner.kv_cache, [chatting.sessions.open().session_id]
    shown: dict[bytes, list[int]] = {}
    for action, number in actions:
        session_id = ids[number % len(ids)]
        messages = chatting.sessions.messages(session_id)
        is_long = sum(len(text) if isinstance(text, str) else TOKENS_PER_IMAGE for text, _ in parts(messages)) > 120
        if action == "ask" and not is_long:
            chatting.ask(session_id, b"picture %d" % (number % 3), "what?"[: number + 1])
        elif action in ("approximate", "exact"):
            chatting.drop(session_id, number % 3, approximate=action == "approximate")
        elif action == "fork" and len(ids) < 4:
            ids.append(chatting.sessions.fork(session_id).session_id)
        elif action == "edit" and messages:
            chatting.ask(session_id, b"new", turn=0)
        elif action == "fill":
            chatting.ask(chatting.sessions.open().session_id, chr(97 + number) * 90)
        assert cache.free_tokens == cache.max_tokens
        assert not cache.out
        assert not cache._references.any()
        for key, block in cache._block_of.items():
            assert shown.setdefault(key, cache.memory[block].tolist()) == cache.memory[block].tolist()
