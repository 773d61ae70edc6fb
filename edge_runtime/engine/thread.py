"""The one thread that runs the engine, and the one beside it that prepares requests. Knows no sockets.

Requests come in through a queue, events go out through another; `wake` is called, from either thread, whenever
`take_events` has something new. Preparing (the chat template, tokens, headers of pictures) can take long for a large or
hostile request: so it holds up neither those that are being answered nor, for longer than one request, those of other
clients.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from typing import TypeVar

from edge_runtime.engine.cache_info import CacheInfo
from edge_runtime.engine.chat import Chat
from edge_runtime.engine.engine import Engine
from edge_runtime.engine.events import Event, Failed
from edge_runtime.engine.request import GenerationRequest
from edge_runtime.errors import Cancelled, EdgeError, InternalError, ShuttingDown, TimedOut
from edge_runtime.model.cancellation import CancelToken

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

_CALL_PATIENCE_S = 0.5
"""How often who waits for the engine looks whether it is there."""


class EngineThread:
    """Owns an engine while it runs. All methods may be called from any one other thread, and none of them blocks."""

    def __init__(self, engine: Engine, wake: Callable[[], None]) -> None:
        self._engine = engine
        self._wake = wake
        self._preparing = Preparing(engine.prepare, self._take_prepared)
        self._inbox: queue.SimpleQueue[tuple[str, Chat, Hashable] | Callable[[], None] | None] = queue.SimpleQueue()
        self._clients: dict[str, Hashable] = {}  # of requests that are being prepared
        self._outbox: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._alive = True
        self.max_call_s: float | None = None
        """How long `call` waits for its turn; None: as long as it takes."""
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Start the threads."""
        self._preparing.start()
        self._thread.start()

    @property
    def alive(self) -> bool:
        """False once the engine has failed or `stop` has been carried out; its last events can still be taken."""
        return self._alive

    @property
    def cache_info(self) -> CacheInfo:
        """What the engine holds, as of its last step."""
        return self._engine.cache_info

    def submit(self, request: GenerationRequest, client: Hashable = None) -> None:
        """Hand a request over; a refusal comes back as a `Failed` event. Clients take turns."""
        self._clients[request.request_id] = client
        self._preparing.put(client, request)

    def is_preparing(self, client: Hashable, session_id: str) -> bool:
        """Whether a request of `client` for that session has not begun yet, or work waits for one."""
        return self._preparing.has(client, session_id)

    def do_behind(self, client: Hashable, session_id: str, work: Callable[[], None]) -> None:
        """Do `work`, which raises nothing, when the requests of `client` for that session have begun."""
        self._preparing.put_work(client, session_id, work)

    def cancel(self, request_id: str) -> None:
        """Stop a request that was submitted, also in the middle of a graph run."""
        self._preparing.cancel(request_id)
        self._engine.cancel(request_id)

    def take_events(self) -> list[Event]:
        """All events since the last call, in order."""
        return taken(self._outbox)

    def call(self, work: Callable[[], _T]) -> _T:
        """Do a small piece of work between two steps of the engine, wait for it and return what it returned.

        For any thread but the engine's. Raises what it raised, `ShuttingDown` once the engine has ended, or `TimedOut`.
        """
        done: Future[_T] = Future()
        started_s = time.monotonic()

        def do() -> None:
            try:
                done.set_result(work())
            except Exception as error:  # noqa: BLE001 (it is raised where it was asked for)
                done.set_exception(error)

        self._inbox.put(do)
        while not wait((done,), _CALL_PATIENCE_S).done:
            if not self._alive and not done.done():
                raise ShuttingDown("the engine has ended; try again when the server is back")
            if self.max_call_s is not None and time.monotonic() - started_s > self.max_call_s:
                raise TimedOut(f"the engine did not end its step within {self.max_call_s:g} s")
        return done.result()

    def stop(self, timeout_s: float) -> bool:
        """End the thread after its current step; False if it has not ended within `timeout_s`."""
        self._preparing.close()
        self._inbox.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _take_prepared(self, request_id: str, prepared: Chat | EdgeError) -> None:
        """What became of a request, from the thread that prepares."""
        client = self._clients.pop(request_id, None)
        if isinstance(prepared, EdgeError):
            self._preparing.taken(request_id)
            self._say(Failed(request_id, prepared))
        else:
            self._inbox.put((request_id, prepared, client))

    def _run(self) -> None:
        try:
            while self._take_commands():
                for event in self._engine.step():
                    self._outbox.put(event)
                self._wake()
        except Exception:
            # The engine's state is unknown now. The server sees that we are gone and fails what is in flight.
            logger.exception("the engine failed")
        finally:
            self._alive = False  # before the wake-up, so that whoever wakes sees it
            self._wake()

    def _take_commands(self) -> bool:
        """Take on what has been prepared, waiting for something to do if the engine has nothing; False: stop."""
        while True:
            try:
                command = self._inbox.get(block=not self._engine.has_work)
            except queue.Empty:
                return True
            if command is None:
                return False
            if isinstance(command, tuple):
                self._add(*command)
            else:
                command()

    def _add(self, request_id: str, chat: Chat, client: Hashable) -> None:
        try:
            self._engine.add(chat, client)
        except EdgeError as error:
            self._say(Failed(request_id, error))
        except Exception as error:
            logger.exception("request %s broke the engine's add", request_id)
            self._say(Failed(request_id, InternalError(f"{type(error).__name__}; the server's log has more")))
        finally:
            self._preparing.taken(request_id)  # a cancel from here on reaches the engine

    def _say(self, event: Event) -> None:
        self._outbox.put(event)
        self._wake()


def taken(source: queue.SimpleQueue[_T]) -> list[_T]:
    """All that is in a queue which nobody else reads, in order."""
    found = []
    while not source.empty():
        found.append(source.get_nowait())
    return found


@dataclass(frozen=True, slots=True, eq=False)
class _Entry:
    work: GenerationRequest | Callable[[], None]
    """A request, or something that has to wait for those before it."""
    session_id: str | None
    cancel: CancelToken = field(default_factory=CancelToken)


class Preparing:
    """A thread that prepares requests, clients in turn. All methods may be called from any thread; none blocks."""

    def __init__(
        self,
        prepare: Callable[[GenerationRequest, CancelToken], Chat],
        deliver: Callable[[str, Chat | EdgeError], None],
    ) -> None:
        """`deliver` gets the request's id and what `prepare` returned or raised, once for each `put`."""
        self._prepare = prepare
        self._deliver = deliver
        self._changed = threading.Condition()
        self._queues: OrderedDict[Hashable, deque[_Entry]] = OrderedDict()  # whose turn is next comes first
        self._tokens: dict[str, CancelToken] = {}
        self._in_hand: tuple[Hashable, str | None] | None = None  # client and session
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="prepare", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def put(self, client: Hashable, request: GenerationRequest) -> None:
        """Queue a request behind those of the same client."""
        entry = _Entry(request, None if request.session is None else request.session.session_id)
        with self._changed:
            self._tokens[request.request_id] = entry.cancel
            self._put(client, entry)

    def put_work(self, client: Hashable, session_id: str, work: Callable[[], None]) -> None:
        """Queue what is to be done, on this thread, behind the requests of the same client. It may raise nothing."""
        with self._changed:
            self._put(client, _Entry(work, session_id))

    def has(self, client: Hashable, session_id: str) -> bool:
        """Whether anything of a client and a session is queued, or in hand."""
        with self._changed:
            queued = any(entry.session_id == session_id for entry in self._queues.get(client, ()))
            return queued or self._in_hand == (client, session_id)

    def _put(self, client: Hashable, entry: _Entry) -> None:
        self._queues.setdefault(client, deque()).append(entry)
        self._changed.notify()

    def cancel(self, request_id: str) -> None:
        """Stop preparing a request, or what was prepared of it until `taken`; ignores ids it does not know."""
        with self._changed:
            token = self._tokens.get(request_id)
            queued = self._unqueue(token) if token is not None else False
        if token is not None:
            token.cancel()
        if queued:
            self._deliver(request_id, Cancelled("the request was cancelled before it was looked at"))

    def taken(self, request_id: str) -> None:
        """What was delivered has found its place, where it can be cancelled from now on."""
        with self._changed:
            self._tokens.pop(request_id, None)

    def close(self) -> None:
        """Stop after the request in hand, whose token is set; what is queued is dropped without a word."""
        with self._changed:
            self._closed = True
            self._queues.clear()
            tokens = list(self._tokens.values())
            self._changed.notify()
        for token in tokens:
            token.cancel()

    def _unqueue(self, token: CancelToken) -> bool:
        """Take the entry of `token` out of its queue; False if it is not in one."""
        for client, entries in self._queues.items():
            for entry in entries:
                if entry.cancel is token:
                    entries.remove(entry)
                    if not entries:
                        del self._queues[client]
                    return True
        return False

    def _run(self) -> None:
        while (entry := self._next()) is not None:
            if isinstance(entry.work, GenerationRequest):
                self._deliver(entry.work.request_id, self._outcome(entry.work, entry.cancel))
            else:
                entry.work()

    def _next(self) -> _Entry | None:
        """The next client's first request, as soon as there is one; its client goes to the end of the line."""
        with self._changed:
            self._in_hand = None
            self._changed.wait_for(lambda: self._queues or self._closed)
            if self._closed:
                return None
            client, entries = self._queues.popitem(last=False)
            entry = entries.popleft()
            if entries:
                self._queues[client] = entries
            self._in_hand = (client, entry.session_id)
            return entry

    def _outcome(self, request: GenerationRequest, cancel: CancelToken) -> Chat | EdgeError:
        try:
            return self._prepare(request, cancel)
        except EdgeError as error:
            return error
        except Exception as error:
            logger.exception("request %s could not be prepared", request.request_id)
            return InternalError(f"{type(error).__name__} while the request was prepared; the server's log has more")
