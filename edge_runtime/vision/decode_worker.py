"""The decoding process: takes encoded pictures from its standard input, gives resized RGB pixels back. Knows no numpy.

It runs what strangers' files make Pillow do, so it holds nothing of value: no socket, no model, no other request.
Memory and processor time are limited for each picture; where a limit ends the process, its owner starts another
(`edge_runtime.vision.decoding`). The frames on both pipes are a 4-byte length, JSON of that length, then raw bytes.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import struct
import sys
import warnings
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import IO, Any

from PIL import Image

from edge_runtime.errors import BadImage, Overloaded
from edge_runtime.vision.headers import ImageLimits
from edge_runtime.vision.pictures import decode_picture, resized

CPU_SECONDS = 10
"""Processor time for one picture."""
_SLACK_BYTES = 8 * 2**20
"""Address space beside the picture: Pillow's blocks are rounded up, the interpreter grows a little."""
_KEPT_BYTES = 40 * 2**20
"""What stays with the process between pictures, but no more than a tenth of what one may take: asking the system for it
anew costs milliseconds a picture."""
_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Serve one owner until it closes the pipe."""
    _lean_and_last()
    base, resting = _address_space(), _resident()
    requests = sys.stdin.buffer
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # whatever a library prints is no reply
    try:
        while len(head := requests.read(4)) == 4:
            request = json.loads(requests.read(struct.unpack("<I", head)[0]))
            reply, pixels = _answer(requests.read(request["bytes"]), request, base)
            text = json.dumps(reply).encode()
            _send(replies, struct.pack("<I", len(text)) + text)
            _send(replies, pixels)
            del pixels
            if _resident() - resting > min(_KEPT_BYTES, request["limits"]["max_decode_bytes"] // 10):
                _give_back()
    except BrokenPipeError:
        return
    except MemoryError:
        sys.exit(os.EX_TEMPFAIL)


def _answer(data: bytes, request: dict[str, Any], base: int) -> tuple[dict[str, Any], bytes]:
    """The reply and the pixels that go with it, or the reply that says what is wrong with the picture."""
    limits, size, raw = ImageLimits(**request["limits"]), tuple(request["size"]), request.get("raw")
    try:
        _limit(base, limits)
        started = perf_counter()
        if raw is None:
            picture = decode_picture(data, limits, size)
        else:
            picture = Image.frombuffer("RGB", (raw[1], raw[0]), data, "raw", "RGB", 0, 1)
        decoded = perf_counter()
        pixels = resized(picture, *size).tobytes()
    except BadImage as error:
        return {"error": str(error)}, b""
    except (MemoryError, Overloaded):  # the limit of this process
        return {"error": "the image does not fit memory when decoded; send it smaller"}, b""
    finally:
        _set_soft(resource.RLIMIT_AS, resource.RLIM_INFINITY)
    return {"decode_ms": (decoded - started) * 1e3, "resize_ms": (perf_counter() - decoded) * 1e3}, pixels


def _send(replies: IO[bytes], data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[replies.write(view) :]


def _limit(base: int, limits: ImageLimits) -> None:
    """What this picture may take, on top of what was taken before it."""
    if base:
        taken = max(_address_space(), base)
        _set_soft(resource.RLIMIT_AS, taken + limits.max_decode_bytes + _SLACK_BYTES)
    used = resource.getrusage(resource.RUSAGE_SELF)
    _set_soft(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + 1 + CPU_SECONDS)


def _set_soft(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    if hard != resource.RLIM_INFINITY and (value == resource.RLIM_INFINITY or value > hard):
        value = hard
    resource.setrlimit(kind, (value, hard))


def _address_space() -> int:
    """Bytes of address space in use; 0 where the system does not tell."""
    return _pages(0) * resource.getpagesize()


def _resident() -> int:
    """Bytes of memory in use; 0 where the system does not tell."""
    return _pages(1) * resource.getpagesize()


def _pages(column: int) -> int:
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[column])
    except OSError:
        return 0


def _lean_and_last() -> None:
    """Leave interrupts to the owner, end with it, and be the first to go when the machine runs out of memory."""
    warnings.simplefilter("ignore")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("800", encoding="ascii")


def _give_back() -> None:
    """Memory of the last picture to the system, where the allocator keeps it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
