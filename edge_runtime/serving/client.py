"""`Client`: the blocking client. Many threads may share one; a `Stream` belongs to the thread that reads it.

The work is done by `Link`'s background thread; here is only what blocks.
"""

from __future__ import annotations

import contextlib
import os
import queue
from collections.abc import Iterable, Iterator
from typing import Any

from edge_runtime.engine.dropping import OlderThan
from edge_runtime.engine.events import Delta, Finished
from edge_runtime.engine.request import GenerationOptions, SamplingParams
from edge_runtime.errors import ServerError, UnknownSession
from edge_runtime.serving import messages as wire
from edge_runtime.serving.base_client import BaseClient, BaseSession, BaseStream, absolute, num_kept, reply_of
from edge_runtime.serving.chat import Chat
from edge_runtime.serving.client_core import Reply
from edge_runtime.serving.images import ImageSource, question
from edge_runtime.serving.link import Link


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
        return reply_of(wire.InfoReply, replies.get())

    def session(
        self,
        session_id: str | None = None,
        *,
        messages: Chat = (),
        system: str | None = None,
        cache_salt: str = "",
        skip_unchanged: bool = False,
    ) -> Session:
        """A conversation that the server keeps: a new one that begins with `messages`, or the one of that id.

        `system` is said before them; `skip_unchanged` is as in its `generate`, for all its requests.
        Raises `TooManySessions`, `UnknownSession`, `ConnectionLost`, and as `generate`.
        """
        replies: queue.SimpleQueue[Reply] = queue.SimpleQueue()
        self._begin_entry(replies.put, session_id, messages, system, cache_salt)
        return Session(self, reply_of(wire.SessionReply, replies.get()), cache_salt, skip_unchanged)

    def restore(self, path: str | os.PathLike[str], *, cache_salt: str = "") -> Session:
        """A new conversation out of a file that `session.save` wrote, as it was then, on the server's machine.

        What was computed of it comes back with it, as far as the cache has room. `cache_salt` is that of the session
        that was saved. Raises `SessionFileError`, `TooManySessions` or `ConnectionLost`.
        """
        replies: queue.SimpleQueue[Reply] = queue.SimpleQueue()
        self._begin_session(replies.put, op="restore", path=absolute(path), cache_salt=cache_salt)
        return Session(self, reply_of(wire.SessionReply, replies.get()), cache_salt)

    def close(self) -> None:
        """Disconnect; what is in flight fails with `ConnectionLost`, and the server cancels it. Idempotent."""
        self._close()

    def __enter__(self) -> Client:
        """Close it at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()


class Session(BaseSession[Stream]):
    """As `BaseSession`; at the end of a `with` block it is closed.

    with client.session(system="You operate a computer.") as session:
        print(session.ask("What is on this screen?", images="screen.png").text)
        print(session.ask("And where is the search field?").text)
    """

    _kind = Stream

    def ask(
        self,
        prompt: str,
        options: SamplingParams | None = None,
        *,
        images: ImageSource | Iterable[ImageSource] | None = None,
        **fields: Any,
    ) -> Finished:
        """The whole answer to the next question; fields as in `generate`. Raises the `EdgeError` that ended it."""
        with self._asked(prompt, images, options, fields) as stream:
            return stream.result

    def edit(
        self,
        turn: int,
        prompt: str,
        options: SamplingParams | None = None,
        *,
        images: ImageSource | Iterable[ImageSource] | None = None,
        **fields: Any,
    ) -> Finished:
        """The answer to `prompt` in place of turn `turn`, and of all that follow it; what comes before it is kept."""
        with self._asked(prompt, images, options, fields, turn) as stream:
            return stream.result

    def regenerate(self, turn: int = -1, options: SamplingParams | None = None, **fields: Any) -> Finished:
        """Another answer to the question of `turn`; later turns are forgotten. Greedy answers are the same again."""
        with self.generate((), options, turn=turn, **fields) as stream:
            return stream.result

    def fork(self, turn: int | None = None) -> Session:
        """A new session with the same past, up to and without `turn`. Costs nothing: what both share is kept once."""
        return Session(self._client, self._call("fork", turn=turn), self._cache_salt, self.skip_unchanged)

    def drop(
        self, images: OlderThan | None = None, *, reasoning: bool = False, approximate: bool = False
    ) -> wire.SessionReply:
        """Let images and videos go, as `images=older_than(3)`: all but the last 3 leave what the model is told.

        Exactly, the next request computes anew what follows the first that left. With `approximate` nothing is computed
        anew: what was computed with them in view stays as it is (docs/sessions.md tells how far answers drift).
        `reasoning`: the thought before the last answer leaves, too; exactly the chat template drops it in any case.
        Raises `UnknownSession`, `SessionBusy`.
        """
        return self._call("drop", keep_images=num_kept(images), reasoning=reasoning, approximate=approximate)

    def state(self) -> wire.SessionReply:
        """How long it is, and what it holds. Raises `UnknownSession`."""
        return self._call("state")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Have the server write it to a file, with all that was computed of it, for `restore`.

        Only over `ipc://`, or to a file in the folder of `serve --keep-sessions`. What was there stays until the new
        file is complete. Raises `SessionFileError`, `SessionBusy` or `UnknownSession`.
        """
        self._call("save", path=absolute(path))

    def close(self) -> None:
        """Let the server forget it. Raises `UnknownSession` if it has."""
        self._call("close")

    def _call(self, op: str, **fields: Any) -> wire.SessionReply:
        replies: queue.SimpleQueue[Reply] = queue.SimpleQueue()
        self._do(replies.put, op, **fields)
        return reply_of(wire.SessionReply, replies.get())

    def __enter__(self) -> Session:
        """Close it at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it, unless it is gone already."""
        with contextlib.suppress(UnknownSession, ServerError):
            self.close()
