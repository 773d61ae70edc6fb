"""A thread that works off jobs one after the other, with a decoding process where one is needed. Knows no pictures."""

from __future__ import annotations

import logging
import threading
from collections import deque
from time import perf_counter

from edge_runtime.errors import Cancelled, EdgeError, InternalError, Overloaded
from edge_runtime.vision.decode_process import Decoded, DecodeProcess
from edge_runtime.vision.headers import ImageLimits
from edge_runtime.vision.image import Pixels
from edge_runtime.vision.pending import PendingPixels, ResizedPictures, naming_frame
from edge_runtime.vision.resize import resize_image

log = logging.getLogger(__name__)

MAX_PIXELS_HERE = 3840 * 2160
"""Raw pictures up to this size are resized in this process: what it takes is small. Larger ones go to the other."""


def is_small(pixels: Pixels) -> bool:
    """Whether a raw picture is resized without a decoding process."""
    return pixels.size <= 3 * MAX_PIXELS_HERE


class DecodeLane:
    """First come, first served. The process is the thread's, and ends with it."""

    def __init__(self, limits: ImageLimits) -> None:
        self._limits = limits
        self._jobs: deque[PendingPixels] = deque()
        self._changed = threading.Condition()
        self._current: PendingPixels | None = None
        self._process: DecodeProcess | None = None
        self._wants_process = False
        self._is_killed = False
        self._is_closed = False
        self._thread: threading.Thread | None = None

    def warm(self) -> None:
        """Have a process ready for the next job."""
        with self._changed:
            self._wants_process = True
            self._wake()

    def put(self, job: PendingPixels) -> None:
        """Queue `job`. It ends as `Cancelled` if the lane is closed, `Overloaded` if no thread can be started."""
        with self._changed:
            if not self._is_closed:
                self._jobs.append(job)
                if self._wake():
                    return
                self._jobs.remove(job)
        closed = self._is_closed
        job.finish(Cancelled("the decoder is closed") if closed else Overloaded("no thread to decode; try again later"))

    def stop(self, job: PendingPixels) -> None:
        """End the work on `job`, if it is the one in progress."""
        with self._changed:
            if self._current is job and self._process is not None:
                self._is_killed = True
                self._process.kill()

    def close(self) -> None:
        """End the process, the thread, and all jobs as `Cancelled`. Idempotent."""
        with self._changed:
            self._is_closed = True
            jobs = [*self._jobs, *([self._current] if self._current is not None else [])]
            self._jobs.clear()
            if self._process is not None:
                self._is_killed = True
                self._process.kill()
            self._changed.notify()
        for job in jobs:
            job.finish(Cancelled("the decoder is closed"))

    def _wake(self) -> bool:
        """Under the lock: start the thread if there is none, and tell it. Returns whether there is one."""
        if self._thread is None and not self._is_closed:
            thread = threading.Thread(target=self._serve, name="decode-pictures", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                return False
            self._thread = thread
        self._changed.notify()
        return True

    def _serve(self) -> None:
        while (job := self._next()) is not None:
            try:
                outcome: ResizedPictures | EdgeError = self._work(job)
            except EdgeError as error:
                outcome = error
            except MemoryError:
                outcome = Overloaded("no memory for the pixels of a picture now; try again later")
            except Exception:
                log.exception("decoding a picture failed")
                outcome = InternalError("decoding failed; the log has the traceback")
            with self._changed:
                self._current = None
                if self._is_killed:
                    self._drop()
            job.finish(outcome)
            del job, outcome  # nothing is kept while waiting
        with self._changed:
            self._drop()

    def _next(self) -> PendingPixels | None:
        """The next job; meanwhile a process is started where one is wanted. None: the lane is closed."""
        with self._changed:
            while not self._is_closed:
                if self._jobs:
                    self._current = self._jobs.popleft()
                    if not self._current.done():
                        return self._current
                    self._current = None
                elif self._wants_process and self._process is None:
                    self._start_quietly()
                else:
                    self._changed.wait()
        return None

    def _start_quietly(self) -> None:
        """Under the lock. What fails here fails again with the next job, and is told there."""
        self._wants_process = False
        try:
            self._process = DecodeProcess()
        except EdgeError as error:
            log.warning("%s", error)

    def _work(self, job: PendingPixels) -> ResizedPictures:
        done: dict[int, Decoded] = {}
        frames = job.frames
        for index, frame in enumerate(frames):
            if id(frame) not in done:
                with naming_frame(index):
                    done[id(frame)] = self._picture(job, frame)
        return ResizedPictures(
            tuple(done[id(frame)].pixels for frame in frames),
            decode_ms=sum(picture.decode_ms for picture in done.values()),
            resize_ms=sum(picture.resize_ms for picture in done.values()),
        )

    def _picture(self, job: PendingPixels, frame: bytes | Pixels) -> Decoded:
        if not isinstance(frame, bytes) and is_small(frame):
            started = perf_counter()
            return Decoded(resize_image(frame, *job.size), 0.0, (perf_counter() - started) * 1e3)
        with self._changed:
            if job.done():  # cancelled between two frames
                raise Cancelled("the request was cancelled")
            if self._process is None:
                self._process = DecodeProcess()
            process = self._process
        try:
            return process.decode(frame, job.size, self._limits)
        except EOFError:
            return self._mourn(process.reason())
        except TimeoutError:
            process.kill()
            return self._mourn(Overloaded("this machine had no time to decode the image; try again later"))

    def _mourn(self, reason: EdgeError) -> Decoded:
        with self._changed:
            was_killed, self._is_killed = self._is_killed, True
        raise Cancelled("the request was cancelled") if was_killed else reason

    def _drop(self) -> None:
        """Under the lock: the process has ended, or is of no more use."""
        process, self._process, self._is_killed = self._process, None, False
        if process is not None:
            self._wants_process = True
            process.kill()
            process.close()
