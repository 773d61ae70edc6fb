"""The one thread that runs the engine: commands come in through a queue, events go out through another.

Requests are prepared beside it (`preparing.py`). Knows no sockets; `wake` is called, from either thread, whenever
`take_events` has something new.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Hashable
from typing import Any, Protocol

from edge_runtime.engine.events import Event, Failed
from edge_runtime.engine.request import GenerationRequest
from edge_runtime.errors import EdgeError, InternalError
from edge_runtime.model.cancellation import CancelToken
from edge_runtime.serving.preparing import Preparing

logger = logging.getLogger(__name__)


class Engine(Protocol):
    """All that serving needs of an engine; `edge_runtime.engine.engine.Engine` is the real one."""

    @property
    def has_work(self) -> bool:
        """Whether `step` has anything to do."""

    def prepare(self, request: GenerationRequest, cancel: CancelToken) -> Any:
        """What `add` takes. Safe from another thread. Raises `EdgeError`, and then there are no events."""

    def add(self, prepared: Any) -> None:
        """Queue a request. Raises `RequestError` or `Overloaded`, and then there are no events for it."""

    def cancel(self, request_id: str) -> None:
        """Stop a request; a later `step` gives its `Failed`. Safe from any thread; ignores unknown ids."""

    def step(self) -> list[Event]:
        """Do the next piece of work."""


class EngineThread:
    """Owns an engine while it runs. All methods may be called from any one other thread, and none of them blocks."""

    def __init__(self, engine: Engine, wake: Callable[[], None]) -> None:
        self._engine = engine
        self._wake = wake
        self._preparing: Preparing[Any] = Preparing(engine.prepare, self._take_prepared)
        self._inbox: queue.SimpleQueue[tuple[str, Any] | None] = queue.SimpleQueue()
        self._outbox: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._alive = True
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Start the threads."""
        self._preparing.start()
        self._thread.start()

    @property
    def alive(self) -> bool:
        """False once the engine has failed or `stop` has been carried out; its last events can still be taken."""
        return self._alive

    def submit(self, request: GenerationRequest, client: Hashable = None) -> None:
        """Hand a request over; a refusal comes back as a `Failed` event. Clients take turns in being prepared."""
        self._preparing.put(client, request)

    def cancel(self, request_id: str) -> None:
        """Stop a request that was submitted, also in the middle of a graph run."""
        self._preparing.cancel(request_id)
        self._engine.cancel(request_id)

    def take_events(self) -> list[Event]:
        """All events since the last call, in order."""
        events = []
        while not self._outbox.empty():
            events.append(self._outbox.get_nowait())
        return events

    def stop(self, timeout_s: float) -> bool:
        """End the thread after its current step; False if it has not ended within `timeout_s`."""
        self._preparing.close()
        self._inbox.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _take_prepared(self, request_id: str, prepared: Any) -> None:
        """What became of a request, from the thread that prepares."""
        if isinstance(prepared, EdgeError):
            self._preparing.taken(request_id)
            self._say(Failed(request_id, prepared))
        else:
            self._inbox.put((request_id, prepared))

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
            self._add(*command)

    def _add(self, request_id: str, prepared: Any) -> None:
        try:
            self._engine.add(prepared)
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
