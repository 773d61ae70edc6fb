"""`AsyncClient`: the same client for asyncio. An instance and its streams belong to one event loop.

The socket lives in the thread of `Link`, so that a busy event loop does not stop the heartbeat, and so that every
kind of loop will do.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterable
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


class Result:
    """An answer to come: `await stream.result`. Called, it is itself, for those who write `await stream.result()`."""

    def __init__(self, answer: Callable[[], Coroutine[None, None, Finished]]) -> None:
        self._answer = answer

    def __await__(self) -> Generator[None, None, Finished]:
        """Wait for the answer. Raises the `EdgeError` that ended the request."""
        return self._answer().__await__()

    def __call__(self) -> Result:
        """Itself."""
        return self


class AsyncStream(BaseStream):
    """One answer as it comes: iterate over its deltas, then await `result`.

    Leaving early, by `close`, an `async with` block or the cancellation of the task that waits, cancels the request.
    """

    def __init__(self, client: BaseClient, link: Link, request_id: str) -> None:
        super().__init__(client, link, request_id)
        self._replies = _Replies()

    def deliver(self, reply: Reply) -> None:
        """Take a reply from the link's thread."""
        self._replies.put(reply)

    @property
    def result(self) -> Result:
        """The whole answer, to be awaited; reads the rest of the stream first. Raises as iterating does."""
        return Result(self._whole)

    async def _whole(self) -> Finished:
        async for _ in self:
            pass
        return self._answer()

    def __aiter__(self) -> AsyncIterator[Delta]:
        """The deltas in order."""
        return self

    async def __anext__(self) -> Delta:
        """The next delta. Raises the `EdgeError` that ended the request."""
        if self._ending is not None:
            raise StopAsyncIteration
        try:
            reply = await self._replies.get()
        except BaseException:  # the task was cancelled: nobody will read the rest
            self.close()
            raise
        if (delta := self._delta(reply)) is None:
            raise StopAsyncIteration
        return delta

    async def __aenter__(self) -> AsyncStream:
        """Close it at the end of the block."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close it."""
        self.close()


class AsyncClient(BaseClient):
    """A link to one server. Connects at the first request, and again at the next one after the server was lost.

    async with AsyncClient() as client:
        print((await client.ask("What is on this screen?", images="screen.png")).text)
        async for delta in client.generate(messages, max_tokens=200):
            print(delta.text, end="")
    """

    def generate(self, messages: Chat, options: SamplingParams | None = None, **fields: Any) -> AsyncStream:
        """Ask for an answer and stream it. Pixels are copied, so the caller may reuse its arrays at once.

        `messages` are `Message`s, or dicts with role and content as OpenAI's and transformers' interfaces take them,
        oldest first; a string is a user's message. `options` are `GenerationOptions`, or some of their fields by name,
        or both; `sampling` stands for those of `SamplingParams`, and `stop` is one string or several.
        Raises `BadParameter`, `BadPrompt` or `BadImage` for what can be seen here; the stream raises everything else.
        """
        return self._begin(AsyncStream, messages, GenerationOptions.of(options, fields, "generate()", wraps=True))

    async def ask(
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
        async with self._begin(AsyncStream, chat, GenerationOptions.of(options, fields, "ask()", wraps=True)) as stream:
            return await stream.result

    async def info(self) -> wire.InfoReply:
        """What the server serves, and its limits. Raises `ConnectionLost` if there is none."""
        replies = _Replies()
        self._begin_info(replies.put)
        return reply_of(wire.InfoReply, await replies.get())

    async def session(
        self,
        session_id: str | None = None,
        *,
        messages: Chat = (),
        system: str | None = None,
        cache_salt: str = "",
        skip_unchanged: bool = False,
    ) -> AsyncSession:
        """A conversation that the server keeps: a new one that begins with `messages`, or the one of that id.

        `system` is said before them; `skip_unchanged` is as in its `generate`, for all its requests.
        Raises `TooManySessions`, `UnknownSession`, `ConnectionLost`, and as `generate`.
        """
        replies = _Replies()
        self._begin_entry(replies.put, session_id, messages, system, cache_salt)
        return AsyncSession(self, reply_of(wire.SessionReply, await replies.get()), cache_salt, skip_unchanged)

    async def restore(self, path: str | os.PathLike[str], *, cache_salt: str = "") -> AsyncSession:
        """A new conversation out of a file that `session.save` wrote, as it was then, on the server's machine.

        What was computed of it comes back with it, as far as the cache has room. `cache_salt` is that of the session
        that was saved. Raises `SessionFileError`, `TooManySessions` or `ConnectionLost`.
        """
        replies = _Replies()
        self._begin_session(replies.put, op="restore", path=absolute(path), cache_salt=cache_salt)
        return AsyncSession(self, reply_of(wire.SessionReply, await replies.get()), cache_salt)

    async def close(self) -> None:
        """Disconnect; what is in flight fails with `ConnectionLost`, and the server cancels it. Idempotent."""
        await asyncio.to_thread(self._close)

    async def __aenter__(self) -> AsyncClient:
        """Close it at the end of the block."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close it."""
        await self.close()


class AsyncSession(BaseSession[AsyncStream]):
    """As `BaseSession`; at the end of an `async with` block it is closed. The methods are those of `client.Session`."""

    _kind = AsyncStream

    async def ask(
        self,
        prompt: str,
        options: SamplingParams | None = None,
        *,
        images: ImageSource | Iterable[ImageSource] | None = None,
        **fields: Any,
    ) -> Finished:
        """The whole answer to the next question; fields as in `generate`. Raises the `EdgeError` that ended it."""
        async with self._asked(prompt, images, options, fields) as stream:
            return await stream.result

    async def edit(
        self,
        turn: int,
        prompt: str,
        options: SamplingParams | None = None,
        *,
        images: ImageSource | Iterable[ImageSource] | None = None,
        **fields: Any,
    ) -> Finished:
        """The answer to `prompt` in place of turn `turn`, and of all that follow it; what comes before it is kept."""
        async with self._asked(prompt, images, options, fields, turn) as stream:
            return await stream.result

    async def regenerate(self, turn: int = -1, options: SamplingParams | None = None, **fields: Any) -> Finished:
        """Another answer to the question of `turn`; later turns are forgotten. Greedy answers are the same again."""
        async with self.generate((), options, turn=turn, **fields) as stream:
            return await stream.result

    async def fork(self, turn: int | None = None) -> AsyncSession:
        """A new session with the same past, up to and without `turn`. Costs nothing: what both share is kept once."""
        return AsyncSession(self._client, await self._call("fork", turn=turn), self._cache_salt, self.skip_unchanged)

    async def drop(
        self, images: OlderThan | None = None, *, reasoning: bool = False, approximate: bool = False
    ) -> wire.SessionReply:
        """As that of `client.Session`."""
        return await self._call("drop", keep_images=num_kept(images), reasoning=reasoning, approximate=approximate)

    async def state(self) -> wire.SessionReply:
        """How long it is, and what it holds. Raises `UnknownSession`."""
        return await self._call("state")

    async def save(self, path: str | os.PathLike[str]) -> None:
        """Have the server write it to a file, with all that was computed of it, for `restore`.

        Only over `ipc://`, or to a file in the folder of `serve --keep-sessions`. What was there stays until the new
        file is complete. Raises `SessionFileError`, `SessionBusy` or `UnknownSession`.
        """
        await self._call("save", path=absolute(path))

    async def close(self) -> None:
        """Let the server forget it. Raises `UnknownSession` if it has."""
        await self._call("close")

    async def _call(self, op: str, **fields: Any) -> wire.SessionReply:
        replies = _Replies()
        self._do(replies.put, op, **fields)
        return reply_of(wire.SessionReply, await replies.get())

    async def __aenter__(self) -> AsyncSession:
        """Close it at the end of the block."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close it, unless it is gone already."""
        with contextlib.suppress(UnknownSession, ServerError):
            await self.close()


class _Replies:
    """A queue from the link's thread into the event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Reply] = asyncio.Queue()

    def put(self, reply: Reply) -> None:
        # A loop that has been closed has nobody waiting.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._queue.put_nowait, reply)

    async def get(self) -> Reply:
        return await self._queue.get()
