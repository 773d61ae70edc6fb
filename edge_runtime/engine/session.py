"""Sessions: conversations that the engine keeps, so that who goes on with one sends only what is new.

A session is its messages and nothing else: it holds no room in the KV cache. What was computed of it is found there by
what it says (docs/sessions.md), as for anybody who sends the same history; so a fork costs nothing, and an edit what
follows it. Knows no tokens, no sockets.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import msgspec

from edge_runtime.engine.held_bytes import HeldByClients
from edge_runtime.engine.picture_cache import PartDigests
from edge_runtime.engine.request import GenerationOptions, GenerationRequest
from edge_runtime.engine.session_state import Asked, Held, SavedState, Session, SessionLimits, SessionState
from edge_runtime.engine.turns import asked_in, before, held_bytes, owned, turn_starts, without_unchanged
from edge_runtime.errors import BadParameter, InternalError, SessionBusy, TooManySessions, UnknownSession
from edge_runtime.model.cancellation import CancelToken
from edge_runtime.model.conversation import Message
from edge_runtime.model.tools import ToolDefinition

_T = TypeVar("_T")


class Sessions:
    """All sessions of an engine. For any thread."""

    def __init__(self, limits: SessionLimits | None = None, now: Callable[[], float] = time.monotonic) -> None:
        self.limits = SessionLimits() if limits is None else limits
        self._now = now
        self._lock = threading.RLock()
        self._sessions: dict[str, Session] = {}
        self._asked: dict[str, Asked] = {}  # by the id of the request
        self._held = HeldByClients()
        self._digests = PartDigests()

    @property
    def num_sessions(self) -> int:
        """Sessions that are kept."""
        with self._lock:
            self._forget_old()
            return len(self._sessions)

    @property
    def num_bytes(self) -> int:
        """Text and pictures that they hold."""
        with self._lock:
            self._forget_old()
            return self._held.all.num_bytes

    def open(self, messages: Sequence[Message] = (), *, client: Hashable = None, cache_salt: str = "") -> SessionState:
        """A new session that begins with `messages`. Raises `TooManySessions`."""
        return self.reopen(SavedState(tuple(messages), cache_salt), client=client)

    def reopen(self, saved: SavedState, *, client: Hashable = None) -> SessionState:
        """A session as it was saved. Raises `TooManySessions`."""
        with self._lock:
            self._forget_old()
            mine = sum(session.client == client for session in self._sessions.values())
            for count, most, whose in (
                (mine, self.limits.max_sessions_per_client, "this client has"),
                (self.num_sessions, self.limits.max_sessions, "there are"),
            ):
                if count >= most:
                    raise TooManySessions(f"{whose} {count} sessions, which is the limit; close some")
            GenerationOptions(cache_salt=saved.cache_salt)  # raises if it is none
            session_id = saved.session_id or secrets.token_urlsafe(16)
            if session_id in self._sessions:
                raise InternalError(f"there is a session {session_id!r:.80} already")
            session = Session(session_id, client, saved.cache_salt, saved.key_salt, self._now() - saved.idle_s)
            kept = tuple(owned(message) for message in saved.messages)
            self._check_bytes((*kept, *saved.tools), session)
            self._settle(session, kept, saved.tools)
            self._sessions[session.session_id] = session
            return self._state(session)

    def fork(
        self, session_id: str, turn: int | None = None, *, client: Hashable = None, cache_salt: str = ""
    ) -> SessionState:
        """A new session with the same past, up to and without `turn`. Raises as `state` and `open`."""
        with self._lock:
            session = self._find(session_id, cache_salt)
            past = SavedState(before(session.messages, turn), cache_salt, session.key_salt, tools=session.tools)
            return self.reopen(past, client=client)

    def saved(self, session_id: str, cache_salt: str = "") -> SavedState:
        """All there is of it. Raises `UnknownSession` or `SessionBusy`."""
        with self._lock:
            idle_s = 0.0 if session_id not in self._sessions else self._now() - self._sessions[session_id].used_s
            session = self._find(session_id, cache_salt)
            self._refuse_busy(session)
            salts = session.cache_salt, session.key_salt
            return SavedState(session.messages, *salts, session_id, idle_s, session.tools)

    def idle(self) -> list[tuple[str, str]]:
        """Name and salt of each that is answering nothing, the one used last first."""
        with self._lock:
            self._forget_old()
            idle = [session for session in self._sessions.values() if session.answering is None]
            idle.sort(key=lambda session: session.used_s, reverse=True)
            return [(session.session_id, session.cache_salt) for session in idle]

    def state(self, session_id: str, cache_salt: str = "") -> SessionState:
        """What there is to say of it. Raises `UnknownSession`."""
        with self._lock:
            return self._state(self._find(session_id, cache_salt))

    def messages(self, session_id: str, cache_salt: str = "") -> tuple[Message, ...]:
        """What was said in it so far. Raises `UnknownSession`."""
        with self._lock:
            return self._find(session_id, cache_salt).messages

    def change(
        self, session_id: str, change: Callable[[tuple[Message, ...]], Sequence[Message]], cache_salt: str = ""
    ) -> SessionState:
        """Replace its messages by `change(messages)`. Raises `UnknownSession`, `SessionBusy` or `TooManySessions`."""
        with self._lock:
            session = self._find(session_id, cache_salt)
            self._refuse_busy(session)
            changed = tuple(map(owned, change(session.messages)))
            self._check_bytes(changed, session)
            self._settle(session, changed, session.tools)
            return self._state(session)

    def close(self, session_id: str, cache_salt: str = "") -> None:
        """Forget it; a request that it is answering is cancelled. Raises `UnknownSession`."""
        with self._lock:
            self._forget(self._find(session_id, cache_salt))

    # ---- for the engine --------------------------------------------------------------------------------------

    def prepared(
        self, request: GenerationRequest, cancel: CancelToken, prepare: Callable[[GenerationRequest], _T]
    ) -> _T:
        """What `prepare` makes of `request` and all that was said before it; then what it supersedes is cancelled.

        `end` is called with it later, whatever becomes of it. Raises as `begin` and `prepare`: nothing has changed.
        """
        while True:
            begun = self.begin(request, cancel)
            with self.unless_refused(begun):
                made = prepare(begun)
                if self.take_on(begun):
                    return made

    def begin(self, request: GenerationRequest, cancel: CancelToken) -> GenerationRequest:
        """`request` with all that was said before it; `end` is called with it later, whatever becomes of it.

        What it supersedes is answered until `take_on`. Raises `UnknownSession`, `SessionBusy`, `BadParameter`, or
        `TooManySessions` where its pictures are too many.
        """
        place = request.session
        if place is None:
            return request
        with self._lock:
            session = self._find(place.session_id, request.options.cache_salt)
            if request.request_id in self._asked:
                raise BadParameter(f"a request with the id {request.request_id!r} is in flight; give each its own")
            if not place.supersede:
                self._refuse_busy(session)
            new, num_unchanged = request.messages, 0
            if place.skip_unchanged:
                new, num_unchanged = without_unchanged(before(session.messages, place.turn), new, self._digests)
            messages = asked_in(session.messages, place.turn, tuple(map(owned, new)))
            tools = request.options.offered_tools
            tools = session.tools if tools == session.tools else tools  # held once
            asked = Asked(session, session.messages, messages, tools, cancel)
            self._check_bytes(asked.holds, session)
            self._held.add(session.client, asked.holds)
            self._asked[request.request_id] = asked
            if not self._is_busy(session):
                session.answering = asked
            options = request.options
            if session.key_salt is not None:
                options = msgspec.structs.replace(options, cache_salt=session.key_salt)
            return GenerationRequest(request.request_id, messages, options, session=place, num_unchanged=num_unchanged)

    def take_on(self, request: GenerationRequest) -> bool:
        """Nothing can be said against a request that began: what it supersedes is cancelled.

        False: its session has gone on meanwhile, so it has to begin anew.
        """
        with self._lock:
            asked = None if request.session is None else self._asked.get(request.request_id)
            if asked is None or asked.cancel.cancelled:  # its session is gone, or has gone on to another
                return True
            session = asked.session
            if session.answering is asked:
                return True
            if session.messages is not asked.past:
                self.end(request, None)
                return False
            if session.answering is not None:
                session.answering.cancel.cancel("the request was superseded by a later one of its session")
            session.answering = asked
            return True

    @contextmanager
    def unless_refused(self, request: GenerationRequest) -> Iterator[None]:
        """A request that began ends with an error of the block."""
        try:
            yield
        except BaseException:
            self.end(request, None)
            raise

    def end(self, request: GenerationRequest, answer: Message | None) -> bool:
        """It has ended: with `answer` its session has gone on, without it stays as it was.

        Returns False where the session has gone on without it, or is gone: then it has no answer.
        """
        if request.session is None:
            return True
        with self._lock:
            asked = self._asked.pop(request.request_id, None)
            if asked is None:
                return False
            session = asked.session
            self._held.remove(session.client, asked.holds)
            session.used_s = self._now()
            if session.answering is not asked:
                return False
            session.answering = None
            if answer is not None:
                self._settle(session, (*asked.messages, answer), asked.tools)
            return True

    # ---- under the lock --------------------------------------------------------------------------------------

    def _find(self, session_id: str, cache_salt: str) -> Session:
        session = self._sessions.get(session_id)
        if session is not None and self._is_old(session):
            self._forget(session)
            session = None
        if session is None or session.cache_salt != cache_salt:
            raise UnknownSession(
                f"there is no session {session_id!r:.80}: it was closed, or nobody used it for "
                f"{self.limits.timeout_s:g} s, or the server was started since; open a new one"
            )
        session.used_s = self._now()
        return session

    def _refuse_busy(self, session: Session) -> None:
        if self._is_busy(session):
            raise SessionBusy("this session is answering another request; wait for its end, cancel or supersede it")

    def _is_busy(self, session: Session) -> bool:
        return session.answering is not None and not session.answering.cancel.cancelled

    def _check_bytes(self, held: Sequence[Held], session: Session) -> None:
        self._forget_old()
        self._held.check(session.client, held, self.limits)

    def check_room(self, num_bytes: int) -> None:
        """Raise `TooManySessions` where so much text and so many pictures more are too much."""
        with self._lock:
            self._forget_old()
            self._held.check_room(num_bytes, self.limits)

    def _settle(self, session: Session, messages: tuple[Message, ...], tools: tuple[ToolDefinition, ...]) -> None:
        held = session.holds
        session.messages, session.tools = messages, tools
        self._held.add(session.client, session.holds)
        self._held.remove(session.client, held)

    def _forget(self, session: Session) -> None:
        for request_id in [name for name, asked in self._asked.items() if asked.session is session]:
            asked = self._asked.pop(request_id)
            asked.cancel.cancel("the session of the request was closed")
            self._held.remove(session.client, asked.holds)
        self._held.remove(session.client, session.holds)
        del self._sessions[session.session_id]

    def _forget_old(self) -> None:
        for session in [session for session in self._sessions.values() if self._is_old(session)]:
            self._forget(session)

    def _is_old(self, session: Session) -> bool:
        return session.answering is None and self._now() - session.used_s > self.limits.timeout_s

    def _state(self, session: Session) -> SessionState:
        return SessionState(
            session_id=session.session_id,
            num_turns=len(turn_starts(session.messages)),
            num_messages=len(session.messages),
            num_bytes=sum(map(held_bytes, session.holds)),
            timeout_s=self.limits.timeout_s,
            is_busy=session.answering is not None,
        )
