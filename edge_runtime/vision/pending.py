"""A picture on its way: what is wanted, and later the pixels or what went wrong. Knows no process."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from edge_runtime.errors import BadImage, Cancelled, EdgeError, TimedOut
from edge_runtime.vision.image import Pixels

log = logging.getLogger(__name__)


class BadFrame(BadImage):
    """`BadImage` that says which of several frames it was: `index`."""

    def __init__(self, message: str, index: int) -> None:
        super().__init__(message)
        self.index = index


@contextmanager
def naming_frame(index: int) -> Iterator[None]:
    """Add to a `BadImage` which frame it is about."""
    try:
        yield
    except BadImage as error:
        raise BadFrame(str(error), index) from error


@dataclass(frozen=True, slots=True, eq=False)
class ResizedPictures:
    """What came of the frames of one job."""

    frames: tuple[Pixels, ...]
    """uint8 [height, width, 3] RGB, each."""
    decode_ms: float
    resize_ms: float


class PendingPixels:
    """Frames that are being decoded and resized. Safe to use from any thread."""

    def __init__(
        self, frames: Sequence[bytes | Pixels], size: tuple[int, int], stop: Callable[[PendingPixels], None]
    ) -> None:
        """`size` is the height and width wanted; `stop` ends the work on this job, if it has begun."""
        self.frames: tuple[bytes | Pixels, ...] = tuple(frames)
        self.size = size
        self._stop = stop
        self._lock = threading.Lock()
        self._finished = threading.Event()
        self._outcome: ResizedPictures | EdgeError | None = None
        self._callbacks: list[Callable[[], None]] = []

    def done(self) -> bool:
        """Whether `result` returns, or raises, at once."""
        return self._finished.is_set()

    def result(self, timeout_s: float | None = None) -> ResizedPictures:
        """Wait for the pixels; None: as long as it takes.

        Raises `BadFrame`, `Cancelled`, `Overloaded` where this machine ran short of something, `TimedOut`.
        """
        if not self._finished.wait(timeout_s):
            raise TimedOut(f"the picture was not decoded within {timeout_s} s")
        if isinstance(self._outcome, EdgeError):
            raise self._outcome
        assert self._outcome is not None
        return self._outcome

    def cancel(self) -> None:
        """Give it up: work that has begun is ended at once. Idempotent; no effect on what is done."""
        if self.finish(Cancelled("the request was cancelled")):
            self._stop(self)

    def on_done(self, callback: Callable[[], None]) -> None:
        """Call `callback` once when this is done, from the thread that ends it; now, if it is done already."""
        with self._lock:
            if self._outcome is None:
                self._callbacks.append(callback)
                return
        callback()

    def finish(self, outcome: ResizedPictures | EdgeError) -> bool:
        """Set the outcome, unless there is one already: for whoever does the work. Returns whether it was set."""
        with self._lock:
            if self._outcome is not None:
                return False
            self._outcome = outcome
            callbacks, self._callbacks, self.frames = self._callbacks, [], ()
        self._finished.set()
        for callback in callbacks:
            _call(callback)
        return True


def _call(callback: Callable[[], None]) -> None:
    try:
        callback()
    except Exception:
        log.exception("a callback of a decoded picture failed")
