"""Images, cancels, bad pictures and vanishing clients leave nothing behind: counts before and after, no clock."""

from __future__ import annotations

import gc
import io
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import zmq
from PIL import Image

from edge_runtime.engine.bundle_runner import BundleRunner, RunnerSettings
from edge_runtime.engine.engine import Engine
from edge_runtime.engine.settings import EngineSettings
from edge_runtime.errors import BadImage, Cancelled
from edge_runtime.model.bundle import open_bundle
from edge_runtime.model.graph import GraphSettings
from edge_runtime.serving.client import Client
from edge_runtime.serving.messages import ModelInfo, VideoSampling
from edge_runtime.serving.server import Server
from edge_runtime.serving.settings import ServerSettings
from edge_runtime.vision.image import ImageLimits

DEADLINE_S = 60.0
VIDEO = VideoSampling(
    fps=2.0,
    min_frames=4,
    max_frames=8,
    min_pixels=1,
    max_pixels=2,
    patch_size=16,
    spatial_merge_size=2,
    temporal_patch_size=2,
)


@pytest.fixture
def server(tiny_bundle: Path) -> Iterator[Server]:
    settings = RunnerSettings(512, 2048, None, GraphSettings(num_threads=1, spin=False), ImageLimits())
    engine = Engine(BundleRunner(open_bundle(tiny_bundle), settings), EngineSettings(prefill_chunk=64))
    made = Server(ServerSettings(bind="tcp://127.0.0.1:*", heartbeat_s=0.1))
    thread = threading.Thread(target=made.run, args=(engine, ModelInfo("tiny", "portable", 512, 1 << 20, VIDEO, "0")))
    thread.start()
    yield made
    made.stop()
    thread.join(30)
    assert not engine.has_work


def file_of(image: Image.Image, kind: str) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


def everything_that_goes_wrong(address: str) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 80, 3), np.uint8))
    good, jpeg = file_of(picture, "PNG"), file_of(picture, "JPEG")
    with Client(address) as client:
        for source in (good, jpeg, np.asarray(picture), picture.convert("RGBA")):
            assert client.ask("what?", images=source, max_tokens=2).finish_reason
        for bad in (good[: len(good) // 2], jpeg[: len(jpeg) // 2], b"no picture"):
            with pytest.raises(BadImage):
                client.ask("what?", images=[good, bad], max_tokens=2)
        for begun in (True, False):
            stream = client.generate([{"role": "user", "content": [{"type": "image", "image": good}]}], max_tokens=400)
            if begun:
                next(stream)
            stream.cancel()
            with pytest.raises(Cancelled):
                for _ in stream:
                    pass
        client.generate("left open", max_tokens=400)  # its client closes
    vanish(address, good)


def vanish(address: str, picture: bytes) -> None:
    """A client that goes away with its requests under way, and one that says only nonsense."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as gone, context.socket(zmq.DEALER) as mad:
        for socket in (gone, mad):
            socket.linger = 0
            socket.rcvtimeo = 60_000
            socket.connect(address)
        content = [{"type": "image", "frame": {"index": 0}}, {"type": "text", "text": "x"}]
        for number in range(3):
            header = {"type": "generate", "id": str(number), "messages": [{"role": "user", "content": content}]}
            gone.send_multipart([msgpack.packb(header | {"max_tokens": 300}), picture])
        gone.recv()
        mad.send(b"\xc1nonsense")
        mad.recv()


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def living() -> Counter[str]:
    """Objects of our own classes."""
    gc.collect()
    kinds: Counter[str] = Counter()
    for found in gc.get_objects():
        module = type(found).__module__
        if isinstance(module, str) and module.startswith("edge_runtime."):
            kinds[f"{module}.{type(found).__qualname__}"] += 1
    return kinds


def settle(server: Server, probe: Client, num_descriptors: int | None) -> None:
    """Until nothing is in flight, and libzmq has closed what clients have left."""
    deadline_s = time.monotonic() + DEADLINE_S
    tally, connections = server.tally, server._connections
    while time.monotonic() < deadline_s:
        idle = probe.info().in_flight == 0 and tally.accepted == tally.finished + tally.failed + tally.lost
        while connections.all() and time.monotonic() < deadline_s:  # the probe's own ends just after its answer
            time.sleep(0)
        if idle and (num_descriptors is None or open_descriptors() <= num_descriptors):
            return
    pytest.fail(f"not idle: {tally}, {open_descriptors()} descriptors open, {num_descriptors} before")


def test_nothing_is_left_behind(server: Server) -> None:
    of_earlier_tests = set(threading.enumerate())  # some of them are about to end

    def counts() -> dict[str, Any]:
        connections = server._connections
        return {
            "threads": len(set(threading.enumerate()) - of_earlier_tests),
            "connections": len(connections.all()),
            "requests": len(connections.requests()),
        }

    with Client(server.address) as probe:
        for _ in range(2):  # whatever is made once has been made then
            everything_that_goes_wrong(server.address)
        settle(server, probe, None)
        before, objects, descriptors = counts(), living(), open_descriptors()
        for _ in range(5):
            everything_that_goes_wrong(server.address)
        settle(server, probe, descriptors)
        assert counts() == before
        grown = living() - objects
        assert all(count < 5 for count in grown.values()), grown  # a leak is at least one in each of five rounds
    assert server.tally.lost >= 7
