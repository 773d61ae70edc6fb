"""The owner's end of one decoding process: start it, ask it for one picture, tell why it ended. Knows no queue."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import struct
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic

import numpy as np

from edge_runtime.errors import BadImage, EdgeError, InternalError, Overloaded
from edge_runtime.vision.headers import ImageLimits
from edge_runtime.vision.image import Pixels
from edge_runtime.vision.pictures import SHORTAGES

WALL_SECONDS = 60.0
"""How long one picture may take on a machine that has no time for it; processor time is limited by the process."""
_PIPE_BYTES = 1 << 20
_CRASHES = frozenset({signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE})
_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "SYSTEMROOT", "TMPDIR")


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """One resized picture."""

    pixels: Pixels
    decode_ms: float
    resize_ms: float


class DecodeProcess:
    """A running `decode_worker`. One thread asks; `kill` may come from any."""

    def __init__(self) -> None:
        """Start it; it is ready when it is. Raises `Overloaded` where the system has no room for a process."""
        # Last the folder of this package: an editable install finds it by a hook that the process does without.
        paths = [*(str(Path(path or ".").resolve()) for path in sys.path), str(Path(__file__).resolve().parents[2])]
        code = f"import sys; sys.path[:] = {paths!r}; from edge_runtime.vision.decode_worker import main; main()"
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, "-I", "-S", "-c", code],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                env=environment,
                start_new_session=True,  # an interrupt from the keyboard is the owner's to handle
            )
        except OSError as error:
            if error.errno in SHORTAGES:
                raise Overloaded(
                    f"no process to decode pictures can be started now: {error.strerror}; try again later"
                ) from error
            raise InternalError(f"no process to decode pictures can be started: {error}") from error
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._replies = self._process.stdin.fileno(), self._process.stdout.fileno()
        for pipe in (self._requests, self._replies):
            with contextlib.suppress(OSError, AttributeError):  # only Linux has it, and only so much of it
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._readable = select.poll()
        self._readable.register(self._replies, select.POLLIN)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def decode(self, frame: bytes | Pixels, size: tuple[int, int], limits: ImageLimits) -> Decoded:
        """`frame` decoded and resized to `size` (height, width).

        Raises `BadImage`, or `EOFError` if the process has ended, `TimeoutError` if it is too slow: then it is of no
        more use.
        """
        deadline = monotonic() + WALL_SECONDS
        data = frame if isinstance(frame, bytes) else np.ascontiguousarray(frame).data.cast("B")
        request = {"bytes": len(data), "size": size, "limits": asdict(limits)}
        if not isinstance(frame, bytes):
            request["raw"] = frame.shape[:2]
        self._send(request, data)
        (length,) = struct.unpack("<I", self._received(4, deadline))
        reply = json.loads(self._received(length, deadline))
        if "error" in reply:
            raise BadImage(reply["error"])
        pixels = np.empty((*size, 3), np.uint8)
        self._receive(pixels.data.cast("B"), deadline)
        return Decoded(pixels, reply["decode_ms"], reply["resize_ms"])

    def kill(self) -> None:
        """End it at once, whatever it does."""
        self._process.kill()

    def reason(self) -> EdgeError:
        """Why it ended, after `decode` raised `EOFError`. Waits for its end, and frees what belonged to it."""
        code = self.close()
        if code == -signal.SIGXCPU:
            return BadImage("the image takes too much processor time to decode; save it again, or send it smaller")
        if -code in _CRASHES:
            return BadImage("the image makes the decoder crash; save it again")
        if code in (-signal.SIGKILL, os.EX_TEMPFAIL):
            return Overloaded("the decoding process was ended for lack of memory on this machine; try again later")
        return InternalError(f"the decoding process ended with code {code}; what it said is in the log")

    def close(self) -> int:
        """End it if it has not ended, and return its exit code."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        try:
            return self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _send(self, request: dict[str, object], data: bytes | memoryview) -> None:
        text = json.dumps(request).encode()
        try:
            for part in (struct.pack("<I", len(text)) + text, data):
                view = memoryview(part)
                while view:
                    view = view[os.write(self._requests, view) :]
        except BrokenPipeError:
            raise EOFError from None

    def _received(self, length: int, deadline: float) -> bytes:
        buffer = bytearray(length)
        self._receive(memoryview(buffer), deadline)
        return bytes(buffer)

    def _receive(self, view: memoryview, deadline: float) -> None:
        while view:
            if not self._readable.poll(max(deadline - monotonic(), 0) * 1e3):
                raise TimeoutError
            count = os.readv(self._replies, [view])
            if count == 0:
                raise EOFError
            view = view[count:]
