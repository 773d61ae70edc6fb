"""A flag that stops work from another thread, also inside a long graph run. Knows nothing of what the work is."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from edge_runtime.errors import Cancelled


class CancelToken:
    """Set once, from any thread; the worker checks it between steps and attaches a hook during long runs."""

    __slots__ = ("_flag", "_hook", "_lock", "reason")

    def __init__(self) -> None:
        self._flag = False
        self.reason = "the request was cancelled"
        """What whoever asked is told."""
        self._hook: Callable[[], None] | None = None
        self._lock = threading.Lock()

    @property
    def cancelled(self) -> bool:
        """Whether `cancel()` has been called."""
        return self._flag

    def cancel(self, reason: str | None = None) -> None:
        """Set the flag, and stop the run that is attached, if any. Idempotent; safe from any thread."""
        with self._lock:
            if reason is not None and not self._flag:
                self.reason = reason
            self._flag = True
            if self._hook is not None:
                self._hook()

    def raise_if_cancelled(self) -> None:
        """Raise `Cancelled` if the flag is set."""
        if self._flag:
            raise Cancelled(self.reason)

    @contextmanager
    def attach(self, stop_run: Callable[[], None]) -> Iterator[None]:
        """While the block runs, `cancel()` also calls `stop_run` (ONNX Runtime's terminate flag).

        Raises `Cancelled` on entry if the flag is already set.
        """
        with self._lock:
            self.raise_if_cancelled()
            self._hook = stop_run
        try:
            yield
        finally:
            with self._lock:
                self._hook = None
