"""What both clients share: a request's number, its message, its ending. Knows nothing of waiting."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Mapping
from typing import Any, TypeVar

from edge_runtime.engine.events import Delta, Failed, Finished
from edge_runtime.engine.request import SamplingParams
from edge_runtime.errors import Cancelled
from edge_runtime.serving import messages as wire
from edge_runtime.serving.address import DEFAULT_ADDRESS
from edge_runtime.serving.chat import Chat
from edge_runtime.serving.client_core import Reply, Timeouts
from edge_runtime.serving.conversion import request_frames
from edge_runtime.serving.link import Deliver, Link


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
        self._close = weakref.finalize(self, self._link.close)

    def _begin(
        self, kind: type[_Stream], messages: Chat, options: SamplingParams | None, fields: Mapping[str, Any]
    ) -> _Stream:
        """Send a request; its replies go to a new stream. Raises as `request_frames` does."""
        request_id = str(next(self._numbers))
        frames = request_frames(request_id, messages, options, fields)
        stream = kind(self, self._link, request_id)
        self._link.start(request_id, frames, stream.deliver)
        return stream

    def _begin_info(self, deliver: Deliver) -> None:
        request_id = str(next(self._numbers))
        self._link.start(request_id, [wire.encode(wire.Info(request_id=request_id))], deliver)


def info_of(reply: Reply) -> wire.InfoReply:
    """The reply to an `Info`. Raises the `EdgeError` that came in its place."""
    if isinstance(reply, Failed):
        raise reply.error
    assert isinstance(reply, wire.InfoReply)
    return reply
