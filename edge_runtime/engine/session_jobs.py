"""The thread that saves and restores sessions beside the engine's. Knows no socket."""

from __future__ import annotations

import logging
import queue
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from edge_runtime.engine.session_state import SessionState
from edge_runtime.engine.thread import taken
from edge_runtime.errors import EdgeError, InternalError

logger = logging.getLogger(__name__)


Job = Callable[[], SessionState]
"""A saving or a restoring. Raises `EdgeError`."""


class SessionJobs:
    """Does one job after the other. All methods may be called from any other thread, and none but `do` blocks."""

    def __init__(self, wake: Callable[[], None]) -> None:
        """`wake` is called whenever `take_done` has something new."""
        self._wake = wake
        self._done: queue.SimpleQueue[tuple[str, SessionState | EdgeError]] = queue.SimpleQueue()
        self._thread = ThreadPoolExecutor(1, "session-files")

    def start(self, job_id: str, job: Job) -> None:
        """Do `job` when those before it are done."""
        self._thread.submit(self.do, job_id, job)

    def take_done(self) -> list[tuple[str, SessionState | EdgeError]]:
        """What has become of jobs since the last call."""
        return taken(self._done)

    def stop(self) -> None:
        """Begin no other job."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def do(self, job_id: str, work: Callable[[], SessionState | Job]) -> None:
        """Do `work` on the thread that calls, and the job that comes of it, if one does, as `start`. Raises nothing."""
        outcome: SessionState | Job | EdgeError
        try:
            outcome = work()
            if callable(outcome):
                self.start(job_id, outcome)
                return
        except EdgeError as error:
            outcome = error
        except Exception as error:
            logger.exception("what was asked of a session broke")
            outcome = InternalError(f"{type(error).__name__}; the server's log has more")
        self._done.put((job_id, outcome))
        self._wake()
