"""What the blocking client and the one for asyncio share: a request's number, its message, its ending.

The work is done by `Link`'s background thread; here nothing blocks.
"""

from __future__ import annotations

import itertools
import os
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from edge_runtime.engine.dropping import OlderThan
from edge_runtime.engine.events import Delta, Failed, Finished
from edge_runtime.engine.option_checks import shown
from edge_runtime.engine.request import GenerationOptions, SamplingParams, SessionTurn
from edge_runtime.errors import BadParameter, Cancelled
from edge_runtime.model.conversation import Message
from edge_runtime.serving import messages as wire
from edge_runtime.serving.address import DEFAULT_ADDRESS
from edge_runtime.serving.chat import Chat
from edge_runtime.serving.client_core import Reply, Timeouts
from edge_runtime.serving.conversion import outgoing_request, outgoing_session
from edge_runtime.serving.copies import PictureCopies
from edge_runtime.serving.images import ImageSource, question
from edge_runtime.serving.link import Deliver, Link
from edge_runtime.serving.outgoing import Outgoing

_MAX_TURN = 2**31
_PLACED = ("supersede", "skip_unchanged")
"""What a session's `ask` takes beside options."""


class BaseStream:
    """One request of a client, until its ending has been read. Who derives from it has `deliver` and the reading."""

    def __init__(self, client: BaseClient, link: Link, request_id: str) -> None:
        self.request_id = request_id
        self._client = client  # a client that is collected closes its link
        self._link = link
        self._ending: Finished | Failed | None = None

    def deliver(self, reply: Reply) -> None:
        """Take a reply from the link's thread."""
        raise NotImplementedError

    def cancel(self) -> None:
        """Ask the server to stop; iterating then raises `Cancelled`, or ends if the answer was quicker.

        May be called from any thread.
        """
        self._link.cancel(self.request_id)

    def close(self) -> None:
        """Cancel the request unless it has ended. Idempotent, and never waits."""
        if self._ending is None:
            self._ending = Failed(self.request_id, Cancelled("the stream was closed before the answer was complete"))
            self._link.forget(self.request_id)

    def _delta(self, reply: Reply) -> Delta | None:
        """The delta that a reply is; None for the end of an answer. Raises the `EdgeError` of any other end."""
        if isinstance(reply, Delta):
            return reply
        assert isinstance(reply, (Finished, Failed))
        self._ending = reply
        if isinstance(reply, Failed):
            raise reply.error
        return None

    def _answer(self) -> Finished:
        """What the stream ended with. Raises it if it is no answer."""
        assert self._ending is not None
        if isinstance(self._ending, Failed):
            raise self._ending.error
        return self._ending


_Stream = TypeVar("_Stream", bound=BaseStream)


class BaseClient:
    """A link to one server, opened at the first request, and again at the next one after the server was lost."""

    def __init__(self, address: str = DEFAULT_ADDRESS, *, timeouts: Timeouts | None = None) -> None:
        """Raises `BadParameter` for an address that is malformed or not on this machine."""
        self._link = Link(address, Timeouts() if timeouts is None else timeouts)
        self._numbers = itertools.count(1)
        self._copies = PictureCopies()
        self._close = weakref.finalize(self, self._link.close)

    def _begin(
        self, kind: type[_Stream], messages: Chat, options: GenerationOptions, session: SessionTurn | None = None
    ) -> _Stream:
        """Send a request; its replies go to a new stream. Raises as `outgoing_request` does."""
        request_id = str(next(self._numbers))
        outgoing = outgoing_request(request_id, messages, options, session, self._copies)
        stream = kind(self, self._link, request_id)
        self._link.start(request_id, outgoing, stream.deliver)
        return stream

    def _begin_info(self, deliver: Deliver) -> None:
        request_id = str(next(self._numbers))
        self._link.start(request_id, Outgoing(wire.encode(wire.Info(request_id=request_id))), deliver)

    def _begin_session(self, deliver: Deliver, **fields: Any) -> None:
        """Send a `Session`; its reply goes to `deliver`."""
        message = wire.Session(request_id=str(next(self._numbers)), **fields)
        self._link.start(message.request_id, Outgoing(wire.encode(message)), deliver)

    def _begin_entry(
        self, deliver: Deliver, session_id: str | None, messages: Chat, system: str | None, cache_salt: str
    ) -> None:
        """Open a session, or ask for the one of that id. Raises as `outgoing_session` does."""
        request_id = str(next(self._numbers))
        if session_id is not None and not isinstance(session_id, str):
            raise BadParameter(f"session_id is {shown(session_id)}; it must be a string, as session.session_id")
        GenerationOptions(cache_salt=cache_salt)  # raises if it is none
        said: list[Any] = [] if system is None else [Message("system", system)]
        said += [messages] if isinstance(messages, (str, Message, Mapping)) else messages or ()
        if session_id is None:
            self._link.start(request_id, outgoing_session(request_id, said, cache_salt), deliver)
        elif said:
            raise BadParameter("a session that is there has its messages; ask in it, or open a new one")
        else:
            self._begin_session(deliver, op="state", session=session_id, cache_salt=cache_salt)


def _check_turn(turn: object) -> None:
    """Raise `BadParameter` for what is none."""
    if turn is not None and (isinstance(turn, bool) or not isinstance(turn, int) or abs(turn) > _MAX_TURN):
        raise BadParameter(f"turn is {shown(turn)}; it must be a whole number: 0 is the first, -1 the last")


def num_kept(images: OlderThan | None) -> int | None:
    """How many images a drop leaves, as the server is told it. Raises `BadParameter` for what is no `older_than(k)`."""
    if images is not None and not isinstance(images, OlderThan):
        raise BadParameter(f"images is {images!r:.80}; wanted older_than(k), which leaves the last k")
    return None if images is None else images.num_kept


def absolute(path: str | os.PathLike[str]) -> str:
    """A path as the server is told it. Raises `BadParameter` for what is none."""
    if path == "":
        raise BadParameter("the path is empty; wanted that of a file")
    try:
        return str(Path(path).expanduser().absolute())
    except (TypeError, RuntimeError, OSError) as error:  # RuntimeError: no such user's home
        raise BadParameter(f"{path!r:.200} is not a path: {error}") from error


_Reply = TypeVar("_Reply", wire.InfoReply, wire.SessionReply)


def reply_of(kind: type[_Reply], reply: Reply) -> _Reply:
    """A reply of the kind that was asked for. Raises the `EdgeError` that came in its place."""
    if isinstance(reply, Failed):
        raise reply.error
    assert isinstance(reply, kind)
    return reply


class BaseSession(Generic[_Stream]):
    """A conversation that the server keeps, so that only what is new is sent. Whoever knows its id may go on with it.

    It outlives the connection, until nobody has used it for `timeout_s`. An answer becomes part of it when it is
    complete; a request that failed or was cancelled leaves it as it was. It answers one request at a time.
    """

    _kind: type[_Stream]

    def __init__(
        self, client: BaseClient, state: wire.SessionReply, cache_salt: str, skip_unchanged: bool = False
    ) -> None:
        self._client = client
        self._cache_salt = cache_salt
        self.skip_unchanged = skip_unchanged
        """What requests do that do not say."""
        self.session_id = state.session
        self.timeout_s = state.timeout_s

    def generate(
        self,
        messages: Chat,
        options: SamplingParams | None = None,
        *,
        turn: int | None = None,
        supersede: bool = False,
        skip_unchanged: bool | None = None,
        **fields: Any,
    ) -> _Stream:
        """Say `messages` and stream the answer; options as for the client's `generate`.

        `turn`: they take the place of that turn, counted from 0, and of all that follow; -1 is the last one. No
        messages: its question is answered anew. `supersede`: what the session is answering is cancelled, not waited
        for. `skip_unchanged`: an image that is, to the last byte, what the session shows last is left out, and what is
        asked is asked about that (`timings.unchanged_images`); None: as the session has it.
        The stream raises `UnknownSession`, `SessionBusy`, or what the client's does.
        """
        known = GenerationOptions.of(options, fields, "generate()", wraps=True)
        return self._begin(messages, known, self._place(turn, supersede, skip_unchanged))

    def _place(self, turn: int | None, supersede: bool = False, skip_unchanged: bool | None = None) -> SessionTurn:
        """Where a request belongs. Raises `BadParameter`."""
        _check_turn(turn)
        skip = self.skip_unchanged if skip_unchanged is None else skip_unchanged
        for name, value in (("supersede", supersede), ("skip_unchanged", skip)):
            if not isinstance(value, bool):
                raise BadParameter(f"{name} is {shown(value)}; it must be true or false")
        return SessionTurn(self.session_id, turn, supersede, skip)

    def _begin(self, messages: Chat, options: GenerationOptions, place: SessionTurn) -> _Stream:
        if options.cache_salt not in ("", self._cache_salt):
            raise BadParameter("a session has the cache_salt it was opened with; leave it out here")
        salted = GenerationOptions.of(options, {"cache_salt": self._cache_salt}, "session")
        return self._client._begin(self._kind, messages, salted, place)

    def _asked(
        self,
        prompt: str,
        images: ImageSource | Iterable[ImageSource] | None,
        options: SamplingParams | None,
        fields: dict[str, Any],
        turn: int | None = None,
    ) -> _Stream:
        """The stream of a question."""
        place = self._place(turn, **{name: fields.pop(name) for name in _PLACED if name in fields})
        known = GenerationOptions.of(options, fields, "ask()", wraps=True)
        return self._begin(question(prompt, images), known, place)

    def _do(self, deliver: Deliver, op: str, **fields: Any) -> None:
        _check_turn(fields.get("turn"))
        self._client._begin_session(deliver, op=op, session=self.session_id, cache_salt=self._cache_salt, **fields)
