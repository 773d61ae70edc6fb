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

import msgspec

from edge_runtime.engine.held_bytes import HeldByClients
from edge_runtime.engine.request import GenerationOptions, GenerationRequest
from edge_runtime.engine.session_state import SavedState, SessionLimits, SessionState
from edge_runtime.engine.turns import asked_in, before, message_bytes, owned, turn_starts
from edge_runtime.errors import BadParameter, InternalError, SessionBusy, TooManySessions, UnknownSession
from edge_runtime.model.cancellation import CancelToken
from edge_runtime.model.conversation import Message

_WAYS = "close some, drop old images exactly, or send pictures as files and not as raw pixels"


class Session:
    """One conversation. Used under the lock of its `Sessions`."""

    __slots__ = (
        "asked",
        "cache_salt",
        "cancel",
        "client",
        "key_salt",
        "messages",
        "request_id",
        "session_id",
        "used_s",
    )

    def __init__(self, session_id: str, client: Hashable, cache_salt: str, used_s: float) -> None:
        self.session_id = session_id
        self.key_salt: str | None = None
        """As `SavedState.key_salt`."""
        self.client = client
        """Who opened it: clients have limits. Whoever knows its id, and gives its salt, may use it."""
        self.cache_salt = cache_salt
        self.used_s = used_s
        self.messages: tuple[Message, ...] = ()
        """Questions and answers so far."""
        self.request_id: str | None = None
        """The request that is being answered, and"""
        self.asked: tuple[Message, ...] = ()
        """all that is said in it, and"""
        self.cancel: CancelToken | None = None
        """how it is stopped."""


class Sessions:
    """All sessions of an engine. For any thread."""

    def __init__(self, limits: SessionLimits | None = None, now: Callable[[], float] = time.monotonic) -> None:
        self.limits = SessionLimits() if limits is None else limits
        self._now = now
        self._lock = threading.RLock()
        self._sessions: dict[str, Session] = {}
        self._of_request: dict[str, Session] = {}
        self._held = HeldByClients()

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
            session = Session(session_id, client, saved.cache_salt, self._now() - saved.idle_s)
            session.key_salt = saved.key_salt
            kept = tuple(owned(message) for message in saved.messages)
            self._check_bytes(kept, session)
            self._held.add(session.client, kept)
            session.messages = kept
            self._sessions[session.session_id] = session
            return self._state(session)

    def fork(
        self, session_id: str, turn: int | None = None, *, client: Hashable = None, cache_salt: str = ""
    ) -> SessionState:
        """A new session with the same past, up to and without `turn`. Raises as `state` and `open`."""
        with self._lock:
            session = self._find(session_id, cache_salt)
            past = SavedState(before(session.messages, turn), cache_salt, session.key_salt)
            return self.reopen(past, client=client)

    def saved(self, session_id: str, cache_salt: str = "") -> SavedState:
        """All there is of it. Raises `UnknownSession` or `SessionBusy`."""
        with self._lock:
            idle_s = 0.0 if session_id not in self._sessions else self._now() - self._sessions[session_id].used_s
            session = self._find(session_id, cache_salt)
            self._refuse_busy(session)
            return SavedState(session.messages, session.cache_salt, session.key_salt, session_id, idle_s)

    def idle(self) -> list[tuple[str, str]]:
        """Name and salt of each that is answering nothing, the one used last first."""
        with self._lock:
            self._forget_old()
            idle = [session for session in self._sessions.values() if session.request_id is None]
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
            self._settle(session, changed)
            return self._state(session)

    def close(self, session_id: str, cache_salt: str = "") -> None:
        """Forget it; a request that it is answering is cancelled. Raises `UnknownSession`."""
        with self._lock:
            self._forget(self._find(session_id, cache_salt))

    # ---- for the engine --------------------------------------------------------------------------------------

    def begin(self, request: GenerationRequest, cancel: CancelToken) -> GenerationRequest:
        """`request` with all that was said before it; `end` is called with it later, whatever becomes of it.

        Raises `UnknownSession`, `SessionBusy`, `TooManySessions` where its pictures are too many, `BadParameter`.
        """
        place = request.session
        if place is None:
            return request
        with self._lock:
            session = self._find(place.session_id, request.options.cache_salt)
            if request.request_id in self._of_request:
                raise BadParameter(f"a request with the id {request.request_id!r} is in flight; give each its own")
            if not place.supersede:
                self._refuse_busy(session)
            asked = asked_in(session.messages, place.turn, tuple(map(owned, request.messages)))
            self._check_bytes(asked, session)
            if session.cancel is not None:
                session.cancel.cancel("the request was superseded by a later one of its session")
            self._held.add(session.client, asked)
            self._release_request(session)
            session.request_id, session.asked, session.cancel = request.request_id, asked, cancel
            self._of_request[request.request_id] = session
            options = request.options
            if session.key_salt is not None:
                options = msgspec.structs.replace(options, cache_salt=session.key_salt)
            return GenerationRequest(request.request_id, asked, options, session=place)

    @contextmanager
    def unless_refused(self, request: GenerationRequest) -> Iterator[None]:
        """A request that began ends with an error of the block."""
        try:
            yield
        except BaseException:
            self.end(request, None)
            raise

    def end(self, request: GenerationRequest, answer: str | None) -> bool:
        """It has ended: with `answer` its session has gone on, without it stays as it was.

        Returns False where the session has gone on without it, or is gone: then it has no answer.
        """
        if request.session is None:
            return True
        with self._lock:
            session = self._of_request.get(request.request_id)
            if session is None:
                return False
            session.used_s = self._now()
            if answer is not None:
                self._settle(session, (*session.asked, Message("assistant", answer)))
            self._release_request(session)
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
        if session.cancel is not None and not session.cancel.cancelled:
            raise SessionBusy("this session is answering another request; wait for its end, cancel or supersede it")

    def _check_bytes(self, messages: Sequence[Message], session: Session) -> None:
        self.check_room(self._held.all.with_(messages) - self._held.all.num_bytes)
        if session.client is None:
            return
        most = int(self.limits.max_bytes * self.limits.max_share)
        total = self._held.of(session.client).with_(messages)
        if total > most:
            raise TooManySessions(
                f"the sessions of this client would hold {total} bytes of text and pictures, and may {most}; {_WAYS}"
            )

    def check_room(self, num_bytes: int) -> None:
        """Raise `TooManySessions` where so much text and so many pictures more are too much."""
        self._forget_old()
        total = self._held.all.num_bytes + num_bytes
        if total > self.limits.max_bytes:
            raise TooManySessions(
                f"all sessions would hold {total} bytes of text and pictures, and may {self.limits.max_bytes}; {_WAYS}"
            )

    def _settle(self, session: Session, messages: tuple[Message, ...]) -> None:
        self._held.add(session.client, messages)
        self._held.remove(session.client, session.messages)
        session.messages = messages

    def _release_request(self, session: Session) -> None:
        if session.request_id is not None:
            self._of_request.pop(session.request_id, None)
            self._held.remove(session.client, session.asked)
        session.request_id, session.asked, session.cancel = None, (), None

    def _forget(self, session: Session) -> None:
        if session.cancel is not None:
            session.cancel.cancel("the session of the request was closed")
        self._release_request(session)
        self._held.remove(session.client, session.messages)
        del self._sessions[session.session_id]

    def _forget_old(self) -> None:
        for session in [session for session in self._sessions.values() if self._is_old(session)]:
            self._forget(session)

    def _is_old(self, session: Session) -> bool:
        return session.request_id is None and self._now() - session.used_s > self.limits.timeout_s

    def _state(self, session: Session) -> SessionState:
        return SessionState(
            session_id=session.session_id,
            num_turns=len(turn_starts(session.messages)),
            num_messages=len(session.messages),
            num_bytes=sum(map(message_bytes, session.messages)),
            timeout_s=self.limits.timeout_s,
            is_busy=session.request_id is not None,
        )
