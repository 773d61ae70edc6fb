"""The parent's side of a worker: starts it, asks it, gives up on it. Knows no case and no metric."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.peers.environment import REPOSITORY, worker_variables


class WorkerFailed(Exception):
    """A worker died, said something odd, or took too long; the message names its log."""


class Worker:
    """A running `benchmarks.peers.worker`. Use as a context manager: leaving it kills what still runs."""

    def __init__(self, python: Path, arguments: list[str], log: Path) -> None:
        """Start it; its stderr, and whatever libraries print, goes to `log`."""
        self._log = log
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [str(python), "-m", "benchmarks.peers.worker", *arguments],
                cwd=REPOSITORY,
                env=worker_variables(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )

    def __enter__(self) -> Worker:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Kill the worker, and what it has started, if it has not ended by itself."""
        self._kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def ask(self, request: dict[str, object], timeout_s: float) -> dict[str, Any]:
        """Send a request and return the answer. Raises `WorkerFailed`."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failed("has died") from None
        return self.read(timeout_s)

    def read(self, timeout_s: float) -> dict[str, Any]:
        """The next thing it says. Raises `WorkerFailed`."""
        assert self._process.stdout is not None
        alarm = threading.Timer(timeout_s, self._kill)
        alarm.start()
        try:
            line = self._process.stdout.readline()
        finally:
            alarm.cancel()
        if not line:
            status = self._process.wait()
            raise self._failed(
                f"said nothing for {timeout_s:.0f} s" if status == -signal.SIGKILL else f"ended with status {status}"
            )
        answer: dict[str, Any] = json.loads(line)
        return answer

    def finish(self, timeout_s: float) -> dict[str, Any]:
        """Tell it that nothing more comes; return its last words. Raises `WorkerFailed`."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self.read(timeout_s)

    def _kill(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)

    def _failed(self, what: str) -> WorkerFailed:
        last = [line for line in self._log.read_text(errors="replace").splitlines() if line.strip()][-3:]
        return WorkerFailed(f"the worker {what}; {self._log} ends: {' / '.join(last)[-400:]}")
