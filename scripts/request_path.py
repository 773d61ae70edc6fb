"""Which files of edge_runtime a request passes on its way: the list in docs/architecture.md, measured.

    python scripts/request_path.py BUNDLE [--json]

Asks a server in this process about a picture, through the client, and notes every function of every thread that is
entered meanwhile. The process that decodes pictures is another, and not looked into.
"""

from __future__ import annotations

import inspect
import json
import sys
import threading
from pathlib import Path
from types import CodeType, FrameType

import numpy as np

import edge_runtime
from edge_runtime.devices.memory import MemoryRequest
from edge_runtime.engine.load import PlannedBundle
from edge_runtime.model.conversation import ImagePart, Message
from edge_runtime.serving.client import Client
from edge_runtime.serving.model_info import model_info
from edge_runtime.serving.server import Server
from edge_runtime.serving.settings import ServerSettings

ROOT = Path(edge_runtime.__file__).parent


class Trace:
    """The functions of edge_runtime that are entered while it is `on`, by file."""

    def __init__(self) -> None:
        self.on = False
        self.entered: dict[str, set[CodeType]] = {}

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        """A profile function, for `sys.setprofile` and `threading.setprofile`."""
        code = frame.f_code
        if self.on and event == "call" and code.co_name != "<module>":
            path = Path(code.co_filename)
            if path.is_relative_to(ROOT):
                self.entered.setdefault(path.relative_to(ROOT).as_posix(), set()).add(code)


def trace_request(bundle: Path) -> dict[str, set[CodeType]]:
    """By file below edge_runtime/: the functions that one question about a picture enters, client and server."""
    planned = PlannedBundle.open(bundle, "auto", MemoryRequest(max_chats=1, context_tokens=512))
    engine, trace = planned.load(), Trace()
    server = Server(ServerSettings(bind="tcp://127.0.0.1:*"))
    threading.setprofile(trace)
    sys.setprofile(trace)
    thread = threading.Thread(target=server.run, args=(engine, model_info(planned)))
    thread.start()
    try:
        with Client(server.address) as client:
            client.info()  # connects
            picture = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
            trace.on = True
            _ = client.generate([Message("user", [ImagePart(picture), "What is this?"])], max_tokens=4).result
            trace.on = False
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
        server.stop()
        thread.join()
    return trace.entered


def num_lines(codes: set[CodeType]) -> int:
    """Lines of these functions; of one inside another, once."""
    lines: set[int] = set()
    for code in codes:
        source, first = inspect.getsourcelines(code)
        lines.update(range(first, first + len(source)))
    return len(lines)


def main() -> None:
    """Print the list; with --json as one object."""
    entered = trace_request(Path(sys.argv[1]))
    lengths = {path: len((ROOT / path).read_text(encoding="utf-8").splitlines()) for path in sorted(entered)}
    inside = {path: num_lines(entered[path]) for path in lengths}
    if "--json" in sys.argv:
        print(json.dumps({"files": lengths, "lines_in_functions": inside}))
        return
    for path, length in lengths.items():
        print(f"{length:5} lines, {inside[path]:4} in functions entered  {path}")
    print(f"{len(lengths)} files, {sum(lengths.values()):,} lines, {sum(inside.values()):,} in functions entered")


if __name__ == "__main__":
    main()
