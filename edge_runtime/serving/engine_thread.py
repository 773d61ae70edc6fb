"""The one thread that runs the engine: commands come in through a queue, events go out through another.

Knows no sockets; `wake` is called (from the engine thread) whenever `take_events` has something new.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from typing import Protocol

from edge_runtime.engine.events import Event, Failed
from edge_runtime.engine.request import GenerationRequest
from edge_runtime.errors import EdgeError, InternalError

logger = logging.getLogger(__name__)


class Engine(Protocol):
    """All that serving needs of an engine; `edge_runtime.engine.engine.Engine` is the real one."""

    @property
    def has_work(self) -> bool:
        """Whether `step` has anything to do."""

    def submit(self, request: GenerationRequest) -> None:
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
        self._inbox: queue.SimpleQueue[GenerationRequest | str | None] = queue.SimpleQueue()
        self._outbox: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._alive = True
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """False once the engine has failed or `stop` has been carried out; its last events can still be taken."""
        return self._alive

    def submit(self, request: GenerationRequest) -> None:
        """Hand a request over; a refusal comes back as a `Failed` event."""
        self._inbox.put(request)

    def cancel(self, request_id: str) -> None:
        """Stop a request that was submitted, also in the middle of a graph run."""
        self._engine.cancel(request_id)
        # Once more, behind its submit: the request may still be in the inbox, where the engine does not know it yet.
        self._inbox.put(request_id)

    def take_events(self) -> list[Event]:
        """All events since the last call, in order."""
        events = []
        while not self._outbox.empty():
            events.append(self._outbox.get_nowait())
        return events

    def stop(self, timeout_s: float) -> bool:
        """End the thread after its current step; False if it has not ended within `timeout_s`."""
        self._inbox.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

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
        """Carry out what is in the inbox, waiting for something to do if the engine has nothing; False: stop."""
        while True:
            try:
                command = self._inbox.get(block=not self._engine.has_work)
            except queue.Empty:
                return True
            if command is None:
                return False
            if isinstance(command, str):
                self._engine.cancel(command)
            else:
                self._submit(command)

    def _submit(self, request: GenerationRequest) -> None:
        try:
            self._engine.submit(request)
            return
        except EdgeError as error:
            failure = error
        except Exception as error:
            logger.exception("request %s broke the engine's submit", request.request_id)
            failure = InternalError(f"{type(error).__name__} while the request was prepared; the server's log has more")
        self._outbox.put(Failed(request.request_id, failure))
        self._wake()
