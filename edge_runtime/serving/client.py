"""`Client`: the blocking client. Many threads may share one; a `Stream` belongs to the thread that reads it.

The work is done by `Link`'s background thread; here is only what blocks, and (`BaseClient`) what the client for asyncio
shares: a request's number, its message, its ending.
"""

from __future__ import annotations

import itertools
import queue
import weakref
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from edge_runtime.engine.events import Delta, Failed, Finished
from edge_runtime.engine.request import GenerationOptions, SamplingParams
from edge_runtime.errors import Cancelled
from edge_runtime.serving import messages as wire
from edge_runtime.serving.address import DEFAULT_ADDRESS
from edge_runtime.serving.chat import Chat
from edge_runtime.serving.client_core import Reply, Timeouts
from edge_runtime.serving.conversion import outgoing_request
from edge_runtime.serving.images import ImageSource, question
from edge_runtime.serving.link import Deliver, Link
from edge_runtime.serving.outgoing import Outgoing


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

    def _begin(self, kind: type[_Stream], messages: Chat, options: GenerationOptions) -> _Stream:
        """Send a request; its replies go to a new stream. Raises as `outgoing_request` does."""
        request_id = str(next(self._numbers))
        outgoing = outgoing_request(request_id, messages, options)
        stream = kind(self, self._link, request_id)
        self._link.start(request_id, outgoing, stream.deliver)
        return stream

    def _begin_info(self, deliver: Deliver) -> None:
        request_id = str(next(self._numbers))
        self._link.start(request_id, Outgoing(wire.encode(wire.Info(request_id=request_id))), deliver)


def info_of(reply: Reply) -> wire.InfoReply:
    """The reply to an `Info`. Raises the `EdgeError` that came in its place."""
    if isinstance(reply, Failed):
        raise reply.error
    assert isinstance(reply, wire.InfoReply)
    return reply


class Stream(BaseStream):
    """One answer as it comes: iterate over its deltas, then read `result`.

    Leaving early, by `close`, a `with` block or Ctrl-C while waiting, cancels the request.
    """

    def __init__(self, client: BaseClient, link: Link, request_id: str) -> None:
        super().__init__(client, link, request_id)
        self._replies: queue.SimpleQueue[Reply] = queue.SimpleQueue()

    def deliver(self, reply: Reply) -> None:
        """Take a reply from the link's thread."""
        self._replies.put(reply)

    @property
    def result(self) -> Finished:
        """The whole answer, once it is there; reads the rest of the stream first. Raises as iterating does."""
        for _ in self:
            pass
        return self._answer()

    def __iter__(self) -> Iterator[Delta]:
        """The deltas in order."""
        return self

    def __next__(self) -> Delta:
        """The next delta. Raises the `EdgeError` that ended the request."""
        if self._ending is not None:
            raise StopIteration
        try:
            reply = self._replies.get()
        except BaseException:  # Ctrl-C: nobody will read the rest
            self.close()
            raise
        if (delta := self._delta(reply)) is None:
            raise StopIteration
        return delta

    def __enter__(self) -> Stream:
        """Close it at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()


class Client(BaseClient):
    """A link to one server. Connects at the first request, and again at the next one after the server was lost.

    with Client() as client:
        print(client.ask("What is on this screen?", images="screen.png").text)
        for delta in client.generate(messages, max_tokens=200):
            print(delta.text, end="")
    """

    def generate(self, messages: Chat, options: SamplingParams | None = None, **fields: Any) -> Stream:
        """Ask for an answer and stream it. Pixels are copied, so the caller may reuse its arrays at once.

        `messages` are `Message`s, or dicts with role and content as OpenAI's and transformers' interfaces take them,
        oldest first; a string is a user's message. `options` are `GenerationOptions`, or some of their fields by name,
        or both; `sampling` stands for those of `SamplingParams`, and `stop` is one string or several.
        Raises `BadParameter`, `BadPrompt` or `BadImage` for what can be seen here; the stream raises everything else.
        """
        return self._begin(Stream, messages, GenerationOptions.of(options, fields, "generate()", wraps=True))

    def ask(
        self,
        prompt: str,
        options: SamplingParams | None = None,
        *,
        images: ImageSource | Iterable[ImageSource] | None = None,
        system: str | None = None,
        **fields: Any,
    ) -> Finished:
        """The whole answer to one question about an image, some images or none.

        `system` is said before it; the rest is as in `generate`. Raises the `EdgeError` that ended the request.
        """
        chat = question(prompt, images, system=system)
        with self._begin(Stream, chat, GenerationOptions.of(options, fields, "ask()", wraps=True)) as stream:
            return stream.result

    def info(self) -> wire.InfoReply:
        """What the server serves, and its limits. Raises `ConnectionLost` if there is none."""
        replies: queue.SimpleQueue[Reply] = queue.SimpleQueue()
        self._begin_info(replies.put)
        return info_of(replies.get())

    def close(self) -> None:
        """Disconnect; what is in flight fails with `ConnectionLost`, and the server cancels it. Idempotent."""
        self._close()

    def __enter__(self) -> Client:
        """Close it at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()
