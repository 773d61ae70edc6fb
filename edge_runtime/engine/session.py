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
from dataclasses import dataclass

from edge_runtime.engine.held_bytes import HeldBytes
from edge_runtime.engine.request import GenerationRequest
from edge_runtime.engine.turns import asked_in, before, message_bytes, owned, turn_starts
from edge_runtime.errors import BadParameter, SessionBusy, TooManySessions, UnknownSession
from edge_runtime.model.cancellation import CancelToken
from edge_runtime.model.conversation import Message


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """How many sessions are kept, for how long, and how much they may hold. Times in seconds."""

    max_sessions: int = 4096
    max_sessions_per_client: int = 1024
    max_bytes: int = 256 * 2**20
    """Text and pictures of all sessions; what several of them share counts once."""
    timeout_s: float = 3600.0
    """A session that nobody has used for so long is forgotten."""


@dataclass(frozen=True, slots=True)
class SessionState:
    """What is told of a session."""

    session_id: str
    num_turns: int
    num_messages: int
    num_bytes: int
    """Its text and pictures, also those that it shares with others."""
    timeout_s: float
    is_busy: bool = False


class Session:
    """One conversation. Used under the lock of its `Sessions`."""

    __slots__ = ("asked", "cache_salt", "cancel", "client", "messages", "request_id", "session_id", "used_s")

    def __init__(self, session_id: str, client: Hashable, cache_salt: str, used_s: float) -> None:
        self.session_id = session_id
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
        self._held = HeldBytes()

    @property
    def num_sessions(self) -> int:
        """Sessions that are kept."""
        return len(self._sessions)

    @property
    def num_bytes(self) -> int:
        """Text and pictures that they hold."""
        return self._held.num_bytes

    def open(self, messages: Sequence[Message] = (), *, client: Hashable = None, cache_salt: str = "") -> SessionState:
        """A new session that begins with `messages`. Raises `TooManySessions`."""
        with self._lock:
            self._forget_old()
            mine = sum(session.client == client for session in self._sessions.values())
            for count, most, whose in (
                (mine, self.limits.max_sessions_per_client, "this client has"),
                (self.num_sessions, self.limits.max_sessions, "there are"),
            ):
                if count >= most:
                    raise TooManySessions(f"{whose} {count} sessions, which is the limit; close some")
            session = Session(secrets.token_urlsafe(16), client, cache_salt, self._now())
            kept = tuple(owned(message) for message in messages)
            self._check_bytes(kept)
            self._held.add(kept)
            session.messages = kept
            self._sessions[session.session_id] = session
            return self._state(session)

    def fork(
        self, session_id: str, turn: int | None = None, *, client: Hashable = None, cache_salt: str = ""
    ) -> SessionState:
        """A new session with the same past, up to and without `turn`. Raises as `state` and `open`."""
        with self._lock:
            messages = before(self._find(session_id, cache_salt).messages, turn)
            return self.open(messages, client=client, cache_salt=cache_salt)

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
            self._check_bytes(changed)
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
            self._check_bytes(asked)
            if session.cancel is not None:
                session.cancel.cancel("the request was superseded by a later one of its session")
            self._held.add(asked)
            self._release_request(session)
            session.request_id, session.asked, session.cancel = request.request_id, asked, cancel
            self._of_request[request.request_id] = session
            return GenerationRequest(request.request_id, asked, request.options, session=place)

    @contextmanager
    def unless_refused(self, request: GenerationRequest) -> Iterator[None]:
        """A request that began ends with an error of the block."""
        try:
            yield
        except BaseException:
            self.end(request, None)
            raise

    def end(self, request: GenerationRequest, answer: str | None) -> None:
        """It has ended: with `answer` its session has gone on, without it stays as it was."""
        with self._lock:
            session = None if request.session is None else self._of_request.get(request.request_id)
            if session is None:
                return
            session.used_s = self._now()
            if answer is not None:
                self._settle(session, (*session.asked, Message("assistant", answer)))
            self._release_request(session)

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

    def _check_bytes(self, messages: Sequence[Message]) -> None:
        total = self._held.with_(messages)
        if total > self.limits.max_bytes:
            raise TooManySessions(
                f"all sessions would hold {total} bytes of text and pictures, and may hold {self.limits.max_bytes}; "
                "close some, drop old images, or send pictures as files and not as raw pixels"
            )

    def _settle(self, session: Session, messages: tuple[Message, ...]) -> None:
        self._held.add(messages)
        self._held.remove(session.messages)
        session.messages = messages

    def _release_request(self, session: Session) -> None:
        if session.request_id is not None:
            self._of_request.pop(session.request_id, None)
            self._held.remove(session.asked)
        session.request_id, session.asked, session.cancel = None, (), None

    def _forget(self, session: Session) -> None:
        if session.cancel is not None:
            session.cancel.cancel("the session of the request was closed")
        self._release_request(session)
        self._held.remove(session.messages)
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
