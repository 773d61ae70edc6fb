"""Requests on their way to the engine: each is prepared in a thread of its own, clients in turn. Knows no engine.

Preparing (the chat template, tokens, headers of pictures) can take long for a large or hostile request. Here it holds
up neither those that are being answered nor, for longer than one request, those of other clients.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from edge_runtime.engine.request import GenerationRequest
from edge_runtime.errors import Cancelled, EdgeError, InternalError
from edge_runtime.model.cancellation import CancelToken

logger = logging.getLogger(__name__)

Prepared = TypeVar("Prepared")


@dataclass(frozen=True, slots=True, eq=False)
class _Entry:
    request: GenerationRequest
    cancel: CancelToken = field(default_factory=CancelToken)


class Preparing(Generic[Prepared]):
    """A thread that prepares what it is given. All methods may be called from any thread; none of them blocks."""

    def __init__(
        self,
        prepare: Callable[[GenerationRequest, CancelToken], Prepared],
        deliver: Callable[[str, Prepared | EdgeError], None],
    ) -> None:
        """`deliver` gets the request's id and what `prepare` returned or raised, once for each `put`."""
        self._prepare = prepare
        self._deliver = deliver
        self._changed = threading.Condition()
        self._queues: OrderedDict[Hashable, deque[_Entry]] = OrderedDict()  # whose turn is next comes first
        self._tokens: dict[str, CancelToken] = {}
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="prepare", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def put(self, client: Hashable, request: GenerationRequest) -> None:
        """Queue a request behind those of the same client."""
        entry = _Entry(request)
        with self._changed:
            self._queues.setdefault(client, deque()).append(entry)
            self._tokens[request.request_id] = entry.cancel
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
        for client, queue in self._queues.items():
            for entry in queue:
                if entry.cancel is token:
                    queue.remove(entry)
                    if not queue:
                        del self._queues[client]
                    return True
        return False

    def _run(self) -> None:
        while (entry := self._next()) is not None:
            self._deliver(entry.request.request_id, self._outcome(entry))

    def _next(self) -> _Entry | None:
        """The next client's first request, as soon as there is one; its client goes to the end of the line."""
        with self._changed:
            self._changed.wait_for(lambda: self._queues or self._closed)
            if self._closed:
                return None
            client, queue = self._queues.popitem(last=False)
            entry = queue.popleft()
            if queue:
                self._queues[client] = queue
            return entry

    def _outcome(self, entry: _Entry) -> Prepared | EdgeError:
        try:
            return self._prepare(entry.request, entry.cancel)
        except EdgeError as error:
            return error
        except Exception as error:
            logger.exception("request %s could not be prepared", entry.request.request_id)
            return InternalError(f"{type(error).__name__} while the request was prepared; the server's log has more")
