"""Sessions: what is kept of a conversation, for how long, and what a request makes of it."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.engine.engine import Engine
from edge_runtime.engine.events import Event, Failed, Finished
from edge_runtime.engine.request import GenerationRequest, SessionTurn
from edge_runtime.engine.scheduler import Scheduler
from edge_runtime.engine.session import SessionLimits, Sessions
from edge_runtime.engine.token_log import TokenLog
from edge_runtime.engine.turns import turn_starts
from edge_runtime.errors import (
    BadParameter,
    Cancelled,
    ContextOverflow,
    Overloaded,
    SessionBusy,
    TooManySessions,
    UnknownSession,
)
from edge_runtime.model.cancellation import CancelToken
from edge_runtime.model.conversation import ImagePart, Message, TextPart
from tests.engine.fake_runner import FakeCache, FakeRunner, by_request, engine_of, last_of


def user(text: str) -> Message:
    return Message("user", text)


def spoken(messages: tuple[Message, ...]) -> list[str]:
    return [part.text for message in messages for part in message.content if isinstance(part, TextPart)]


class Asking:
    """An engine and one session of it."""

    def __init__(self, **limits: object) -> None:
        self.now_s = 0.0
        self.runner = FakeRunner(kv_cache=FakeCache(600, 4, reuses=True), max_context=600)
        self.engine: Engine = engine_of(self.runner, prefill_chunk=8, max_running=3)
        self.sessions = self.engine.sessions = Sessions(SessionLimits(**limits), lambda: self.now_s)  # type: ignore[arg-type]
        self.number = 0

    def request(self, session_id: str, *texts: str, turn: int | None = None, supersede: bool = False) -> str:
        self.number += 1
        place = SessionTurn(session_id, turn, supersede)
        messages = tuple(user(text) for text in texts)
        self.engine.submit(GenerationRequest(f"r{self.number}", messages, session=place, max_tokens=6))
        return f"r{self.number}"

    def ask(self, session_id: str, *texts: str, turn: int | None = None) -> Finished:
        name = self.request(session_id, *texts, turn=turn)
        events = []
        while self.engine.has_work:
            events += self.engine.step()
        return last_of(by_request(events), name)


def test_a_question_follows_what_was_said() -> None:
    asking = Asking()
    session_id = asking.sessions.open((Message("system", "be brief"),)).session_id
    first = asking.ask(session_id, "one")
    second = asking.ask(session_id, "two")
    assert spoken(asking.sessions.messages(session_id)) == ["be brief", "one", first.text, "two", second.text]
    state = asking.sessions.state(session_id)
    assert (state.num_turns, state.num_messages, state.is_busy) == (2, 5, False)
    assert second.timings.cached_tokens > 0
    other = asking.engine
    whole = (Message("system", "be brief"), user("one"), Message("assistant", first.text), user("two"))
    other.submit(GenerationRequest("whole", whole, max_tokens=6))
    events = []
    while other.has_work:
        events += other.step()
    assert last_of(by_request(events), "whole").text == second.text


def test_an_edit_takes_the_place_of_a_turn_and_of_all_behind_it() -> None:
    asking = Asking()
    session_id = asking.sessions.open((Message("system", "s"),)).session_id
    for text in ("a", "b", "c"):
        asking.ask(session_id, text)
    edited = asking.ask(session_id, "B", turn=1)
    texts = spoken(asking.sessions.messages(session_id))
    assert (texts[0], texts[1], texts[3:], len(texts)) == ("s", "a", ["B", edited.text], 5)
    again = asking.ask(session_id, turn=0)
    assert spoken(asking.sessions.messages(session_id)) == ["s", "a", again.text]
    with pytest.raises(BadParameter, match="has 1 turns, there is no turn 1"):
        asking.request(session_id, "x", turn=1)
    asking.ask(session_id, "d", turn=-1)
    assert spoken(asking.sessions.messages(session_id))[:2] == ["s", "d"]


def test_nothing_to_answer_anew_is_said() -> None:
    asking = Asking()
    session_id = asking.sessions.open().session_id
    with pytest.raises(BadParameter, match="has 0 turns"):
        asking.request(session_id)
    said_before = asking.sessions.open((Message("assistant", "hello"),)).session_id
    with pytest.raises(BadParameter, match="no question"):
        asking.request(said_before)


def test_a_fork_goes_its_own_way() -> None:
    asking = Asking()
    session_id = asking.sessions.open().session_id
    asking.ask(session_id, "a")
    asking.ask(session_id, "b")
    whole, part = asking.sessions.fork(session_id), asking.sessions.fork(session_id, 1)
    assert (whole.num_turns, part.num_turns) == (2, 1)
    before = asking.sessions.messages(session_id)
    asking.ask(part.session_id, "other")
    asking.ask(whole.session_id, "c")
    assert asking.sessions.messages(session_id) == before
    assert spoken(asking.sessions.messages(part.session_id))[2] == "other"


def test_what_sessions_share_counts_once() -> None:
    sessions = Sessions(SessionLimits(max_bytes=40_000))
    picture = Message("user", [ImagePart(b"x" * 30_000)])
    first = sessions.open((picture,))
    forks = [sessions.fork(first.session_id) for _ in range(5)]
    assert sessions.num_bytes < 32_000
    with pytest.raises(TooManySessions, match="and may 40000"):
        sessions.open((Message("user", [ImagePart(b"y" * 30_000)]),))
    for state in (first, *forks):
        sessions.close(state.session_id)
    assert (sessions.num_bytes, sessions.num_sessions) == (0, 0)


def test_one_request_at_a_time_unless_it_supersedes() -> None:
    asking = Asking()
    session_id = asking.sessions.open().session_id
    first = asking.request(session_id, "a" * 40)
    asking.engine.step()
    with pytest.raises(SessionBusy):
        asking.request(session_id, "b")
    second = asking.request(session_id, "c", supersede=True)
    events = []
    while asking.engine.has_work:
        events += asking.engine.step()
    ends = by_request(events)
    failed = ends[first][-1]
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, Cancelled)
    assert "superseded" in str(failed.error)
    answer = last_of(ends, second).text
    assert spoken(asking.sessions.messages(session_id)) == ["c", answer]


@pytest.mark.parametrize("refused", ["too long", "no such turn", "no room", "bytes"])
def test_who_is_refused_has_superseded_nothing(refused: str) -> None:
    asking = Asking(max_bytes=10_000)
    session_id = asking.sessions.open().session_id
    first = asking.request(session_id, "a" * 40)
    events = asking.engine.step()
    held = asking.sessions.num_bytes
    with (
        pytest.raises((ContextOverflow, BadParameter, Overloaded, TooManySessions)),
        pytest.MonkeyPatch.context() as patch,
    ):
        if refused == "no room":  # any more when it is prepared
            rooms = iter((True, False))
            patch.setattr(Scheduler, "check_room", lambda _: next(rooms) or raise_overloaded())
        text = {"too long": "x" * 1000, "bytes": "x" * 20_000}.get(refused, "b")
        asking.request(session_id, text, turn=7 if refused == "no such turn" else None, supersede=True)
    assert asking.sessions.num_bytes == held
    while asking.engine.has_work:
        events += asking.engine.step()
    answer = last_of(by_request(events), first).text
    assert spoken(asking.sessions.messages(session_id)) == ["a" * 40, answer]


def raise_overloaded() -> None:
    raise Overloaded("full")


def test_what_was_answered_before_it_could_be_superseded_is_part_of_the_past() -> None:
    asking = Asking()
    session_id = asking.sessions.open().session_id
    first = asking.request(session_id, "a")
    events: list[Event] = []
    prepare = asking.runner.prepare

    def slowly(request: GenerationRequest, cancel: CancelToken) -> TokenLog:
        while asking.engine.has_work:
            events.extend(asking.engine.step())
        return prepare(request, cancel)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asking.runner, "prepare", slowly)
        second = asking.request(session_id, "b", supersede=True)
    answer = last_of(by_request(events), first).text
    while asking.engine.has_work:
        events += asking.engine.step()
    ends = by_request(events)
    assert spoken(asking.sessions.messages(session_id)) == ["a", answer, "b", last_of(ends, second).text]
    asking.sessions.close(session_id)
    assert asking.sessions.num_bytes == 0


def test_who_was_superseded_while_it_was_prepared_supersedes_nobody() -> None:
    asking = Asking()
    session_id = asking.sessions.open().session_id
    prepare = asking.runner.prepare
    later = ["b"]

    def overtaken(request: GenerationRequest, cancel: CancelToken) -> TokenLog:
        if later:
            asking.request(session_id, later.pop(), supersede=True)
        return prepare(request, cancel)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asking.runner, "prepare", overtaken)
        asking.request(session_id, "a")
    events = []
    while asking.engine.has_work:
        events += asking.engine.step()
    ends = by_request(events)
    first, second = sorted(ends)
    failed = ends[first][-1]
    assert isinstance(failed, Failed)
    assert "superseded" in str(failed.error)
    assert spoken(asking.sessions.messages(session_id)) == ["b", last_of(ends, second).text]


def test_who_cancelled_may_ask_at_once() -> None:
    asking = Asking()
    session_id = asking.sessions.open().session_id
    first = asking.request(session_id, "a" * 40)
    asking.engine.step()
    asking.engine.cancel(first)
    answer = asking.ask(session_id, "b")
    assert spoken(asking.sessions.messages(session_id)) == ["b", answer.text]


def test_what_fails_leaves_a_session_as_it_was() -> None:
    asking = Asking()
    session_id = asking.sessions.open((Message("system", "s"),)).session_id
    asking.ask(session_id, "a")
    before, held = asking.sessions.messages(session_id), asking.sessions.num_bytes
    with pytest.raises(ContextOverflow):
        asking.request(session_id, "x" * 1000)
    asking.runner.script["bad"] = []
    name = asking.request(session_id, "cancelled")
    asking.engine.cancel(name)
    while asking.engine.has_work:
        asking.engine.step()
    assert asking.sessions.messages(session_id) == before
    assert asking.sessions.num_bytes == held
    assert not asking.sessions.state(session_id).is_busy


def test_a_request_that_could_not_be_added_is_forgotten() -> None:
    asking = Asking()
    session_id = asking.sessions.open().session_id
    chat = asking.engine.prepare(
        GenerationRequest("same", (user("a"),), session=SessionTurn(session_id)), CancelToken()
    )
    asking.engine.submit(GenerationRequest("same", (user("b"),), max_tokens=3))
    with pytest.raises(BadParameter, match="in flight"):
        asking.engine.add(chat)
    assert not asking.sessions.state(session_id).is_busy


def test_a_session_is_forgotten_when_nobody_uses_it() -> None:
    asking = Asking(timeout_s=10.0)
    session_id = asking.sessions.open().session_id
    asking.now_s = 9
    asking.ask(session_id, "a")
    asking.now_s = 18
    assert asking.sessions.state(session_id).num_turns == 1
    asking.now_s = 29
    with pytest.raises(UnknownSession, match="nobody used it for 10 s"):
        asking.request(session_id, "b")
    assert (asking.sessions.num_sessions, asking.sessions.num_bytes) == (0, 0)


def test_what_has_expired_makes_room() -> None:
    now_s = [0.0]
    sessions = Sessions(SessionLimits(max_bytes=10_000, timeout_s=5), lambda: now_s[0])
    sessions.open((Message("user", [ImagePart(b"x" * 8000)]),))
    now_s[0] = 4
    living = sessions.open().session_id
    now_s[0] = 6
    request = GenerationRequest("r", (Message("user", [ImagePart(b"y" * 8000)]),), session=SessionTurn(living))
    sessions.begin(request, CancelToken())
    assert (sessions.num_sessions, sessions.num_bytes < 10_000) == (1, True)


def test_one_client_leaves_room_for_others() -> None:
    sessions = Sessions(SessionLimits(max_bytes=100_000))
    picture = (Message("user", [ImagePart(b"x" * 60_000)]),)
    session_id = sessions.open(picture, client="a").session_id
    sessions.fork(session_id, client="a")  # what both share counts once
    with pytest.raises(TooManySessions, match="of this client would hold"):
        sessions.open((Message("user", [ImagePart(b"y" * 20_000)]),), client="a")
    sessions.open((Message("user", [ImagePart(b"y" * 20_000)]),), client="b")


@pytest.mark.parametrize("text", ["a" * 1000, "\N{CROWN}" + "a" * 999, "\u4e00" * 1000])
def test_small_parts_and_wide_text_are_counted_as_they_are_kept(text: str) -> None:
    sessions = Sessions()
    sessions.open((Message("user", [text, *(ImagePart(b"x") for _ in range(100)), *("y" for _ in range(100))]),))
    assert sessions.num_bytes > sys.getsizeof(text) + 100 * 1000 + 100 * sys.getsizeof("y")


def test_a_salt_is_as_long_as_that_of_a_request() -> None:
    with pytest.raises(BadParameter, match="cache_salt"):
        Sessions().open(cache_salt="x" * 257)


def test_an_answer_that_came_too_late_for_its_session_is_none() -> None:
    """A request was superseded when its last token was drawn: it is not finished, as its session has no such answer."""
    asking = Asking()
    session_id = asking.sessions.open().session_id
    first = asking.request(session_id, "a")
    events = []
    while not asking.engine._chats[first].log.num_output:
        events += asking.engine.step()
    draw = type(asking.engine._chats[first]).finish

    def superseded_meanwhile(chat, reason):  # type: ignore[no-untyped-def]
        if chat.request.request_id == first:
            later = GenerationRequest("later", (user("b"),), session=SessionTurn(session_id, None, True), max_tokens=3)
            asking.engine.add(asking.engine.prepare(later, CancelToken()))
        return draw(chat, reason)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(asking.engine._chats[first]), "finish", superseded_meanwhile)
        while asking.engine.has_work:
            events += asking.engine.step()
    ends = by_request(events)
    assert isinstance(ends[first][-1], Failed)
    assert "superseded" in str(ends[first][-1].error)
    assert spoken(asking.sessions.messages(session_id)) == ["b", last_of(ends, "later").text]


def test_limits_are_said() -> None:
    sessions = Sessions(SessionLimits(max_sessions=3, max_sessions_per_client=2))
    first = sessions.open(client="a")
    sessions.open(client="a")
    with pytest.raises(TooManySessions, match="this client has 2 sessions"):
        sessions.open(client="a")
    sessions.open(client="b")
    with pytest.raises(TooManySessions, match="there are 3 sessions"):
        sessions.open(client="b")
    sessions.close(first.session_id)
    sessions.open(client="a")
    with pytest.raises(UnknownSession):
        sessions.close(first.session_id)


def test_a_session_is_none_under_another_salt() -> None:
    sessions = Sessions()
    session_id = sessions.open(cache_salt="mine").session_id
    for use in (sessions.state, sessions.close, sessions.fork, sessions.messages):
        with pytest.raises(UnknownSession):
            use(session_id)
    request = GenerationRequest("r", (user("a"),), session=SessionTurn(session_id), cache_salt="theirs")
    with pytest.raises(UnknownSession):
        sessions.begin(request, CancelToken())


def test_pixels_that_their_owner_may_change_are_copied() -> None:
    pixels, raw = np.zeros((4, 4, 3), np.uint8), bytearray(48)
    view = pixels.view()
    view.flags.writeable = False
    of_raw = np.frombuffer(memoryview(raw).toreadonly(), np.uint8).reshape(4, 4, 3)
    sessions = Sessions()
    session_id = sessions.open((Message("user", [ImagePart(pixels), ImagePart(view), ImagePart(of_raw)]),)).session_id
    pixels[:] = 9
    raw[:] = b"x" * 48
    (message,) = sessions.messages(session_id)
    for part in message.content:
        assert isinstance(part, ImagePart)
        assert np.asarray(part.data).max() == 0


VERBS = st.sampled_from(["ask", "edit", "again", "fork", "close", "cancel", "fail"])
ROLES = st.sampled_from(["system", "user", "assistant"])


@given(st.lists(ROLES, max_size=12))
def test_turns_cover_what_is_not_the_systems(roles: list[str]) -> None:
    messages = [Message(role, "x") for role in roles]  # type: ignore[arg-type]
    starts = turn_starts(messages)
    assert starts == sorted(set(starts))
    assert all(roles[start] != "system" for start in starts)
    covered = sum(role != "system" for role in roles[starts[0] :]) if starts else 0
    assert covered == sum(role != "system" for role in roles)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["ask", "edit", "again", "fork", "close", "cancel", "fail"]), st.integers(0, 9)),
        max_size=25,
    )
)
def test_sessions_hold_what_a_list_of_texts_says(steps: list[tuple[str, int]]) -> None:
    asking = Asking()
    model: dict[str, list[str]] = {asking.sessions.open().session_id: []}
    for verb, pick in steps:
        if not model:
            model[asking.sessions.open().session_id] = []
        session_id = sorted(model)[pick % len(model)]
        said = model[session_id]
        turns = len(said) // 2
        if verb == "ask":
            said += ["q", asking.ask(session_id, "q").text]
        elif verb == "close":
            asking.sessions.close(session_id)
            del model[session_id]
        elif verb == "fork":
            at = pick % (turns + 1)
            forked = asking.sessions.fork(session_id, at if at < turns else None)
            model[forked.session_id] = said[: 2 * at]
        elif verb in ("edit", "again") and turns:
            at = pick % turns
            texts = ("e",) if verb == "edit" else ()
            question = texts or (said[2 * at],)
            said[2 * at :] = [*question, asking.ask(session_id, *texts, turn=at).text]
        elif verb == "cancel":
            asking.engine.cancel(asking.request(session_id, "zz"))
            while asking.engine.has_work:
                asking.engine.step()
        elif verb == "fail":
            with pytest.raises(ContextOverflow):
                asking.request(session_id, "x" * 1000)
    assert asking.sessions.num_sessions == len(model)
    for session_id, said in model.items():
        assert spoken(asking.sessions.messages(session_id)) == said
        asking.sessions.close(session_id)
    assert asking.sessions.num_bytes == 0
    cache = asking.runner.kv_cache
    assert cache.free_tokens == cache.max_tokens
