"""Many clients that cancel, vanish and talk nonsense, against the real engine and a tiny model.

Every request ends exactly once, memory stays flat, and the server goes on serving. Seeded: what a client does next
depends on nothing but its seed and the answers it gets.
"""

from __future__ import annotations

import json
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import psutil
import pytest
import zmq

from edge_runtime.engine.bundle_runner import BundleRunner, RunnerSettings
from edge_runtime.engine.engine import Engine
from edge_runtime.engine.settings import EngineSettings
from edge_runtime.model.bundle import open_bundle
from edge_runtime.model.graph import GraphSettings
from edge_runtime.serving.client import Client
from edge_runtime.serving.messages import ModelInfo, VideoSampling
from edge_runtime.serving.server import Server
from edge_runtime.serving.settings import ServerSettings
from edge_runtime.vision.image import ImageLimits

NUM_CLIENTS = 8
MAX_IN_FLIGHT = 3
MAX_GROWTH_BYTES = 32 * 2**20
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
PICTURE = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8).tobytes()


@pytest.fixture
def serving(tiny_bundle: Path) -> Iterator[tuple[Server, Callable[[], None]]]:
    """A server over the real engine, and what stops it."""
    settings = RunnerSettings(512, 2048, None, GraphSettings(num_threads=1, spin=False), ImageLimits())
    engine = Engine(BundleRunner(open_bundle(tiny_bundle), settings), EngineSettings(prefill_chunk=64))
    server = Server(ServerSettings(bind="tcp://127.0.0.1:*"))
    model = ModelInfo("tiny", "portable", 512, 1 << 20, VIDEO, "0")
    thread = threading.Thread(target=server.run, args=(engine, model))
    thread.start()

    def stop() -> None:
        server.stop()
        thread.join(30)
        assert not thread.is_alive()

    yield server, stop
    stop()
    assert not engine.has_work


class WildClient:
    """Sends `num_requests` requests, and things that are none; writes down how each request ended."""

    def __init__(self, address: str, seed: int, num_requests: int) -> None:
        self.random = random.Random(seed)
        self.address = address
        self.num_requests = num_requests
        self.counts: Counter[str] = Counter()
        self.in_flight: set[str] = set()
        self.ended: set[str] = set()
        self.num_complaints_due = 0
        self.context = zmq.Context()

    def run(self) -> None:
        self._connect()
        for number in range(self.num_requests):
            self._ask(f"{number}")
            if self.random.random() < 0.15:
                self._talk_nonsense()
            if self.in_flight and self.random.random() < 0.2:
                self._send({"type": "cancel", "id": self.random.choice(sorted(self.in_flight))})
            if self.random.random() < 0.05:
                self._vanish()
            while len(self.in_flight) >= MAX_IN_FLIGHT:
                self._read()
        while self.in_flight or self.num_complaints_due:
            self._read()
        self._send({"type": "info", "id": "last"})
        while self._read() != "info_reply":  # everything the server had to say to us came before this
            pass
        self.socket.close(0)
        self.context.term()

    def _connect(self) -> None:
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.RCVTIMEO, 60_000)
        self.socket.connect(self.address)

    def _send(self, header: dict[str, Any], *frames: bytes) -> None:
        self.socket.send_multipart([msgpack.packb(header), *frames])

    def _ask(self, request_id: str) -> None:
        content: list[Any] = [{"type": "text", "text": "tell me " + "more " * self.random.randrange(20)}]
        frames = []
        if self.random.random() < 0.3:
            broken = self.random.random() < 0.2
            content.insert(0, {"type": "image", "frame": {"index": 0, "width": 96, "height": 63 if broken else 64}})
            frames.append(PICTURE)
        header = {"type": "generate", "id": request_id, "messages": [{"role": "user", "content": content}]}
        header["max_tokens"] = self.random.choice([1, 3, 6, 12, 9999])  # the last one is longer than the context
        header["temperature"], header["seed"] = self.random.choice([0, 1.5]), self.random.randrange(1000)
        self._send(header, *frames)
        self.in_flight.add(request_id)

    def _talk_nonsense(self) -> None:
        nonsense = [b"", self.random.randbytes(20), msgpack.packb({"type": "generate"}), msgpack.packb([1] * 50)]
        self.socket.send(self.random.choice(nonsense))
        self.num_complaints_due += 1

    def _vanish(self) -> None:
        self.counts["vanished"] += len(self.in_flight)
        self.in_flight.clear()
        self.num_complaints_due = 0
        self.socket.close(0)
        self._connect()

    def _read(self) -> str:
        message = msgpack.unpackb(self.socket.recv())
        kind, request_id = str(message["type"]), message.get("id")
        if kind in ("pong", "info_reply"):
            return kind
        if request_id == "":
            assert message["code"] == "protocol_error"
            self.num_complaints_due -= 1
            return kind
        assert request_id in self.in_flight, f"{message} is about a request that has ended"
        if kind in ("finished", "failed"):
            self.in_flight.remove(request_id)
            self.counts[message.get("code", kind)] += 1
        return kind


def run_clients(address: str, seed: int, num_requests: int) -> Counter[str]:
    """All clients to their end; how the requests ended."""
    clients = [WildClient(address, seed + index, num_requests // NUM_CLIENTS) for index in range(NUM_CLIENTS)]
    failures: list[BaseException] = []

    def guarded(client: WildClient) -> None:
        try:
            client.run()
        except BaseException as error:  # noqa: BLE001 - carried to the main thread
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return sum((client.counts for client in clients), Counter())


@pytest.mark.parametrize(
    ("num_requests", "seed"), [(304, 1), pytest.param(1000, 2, marks=pytest.mark.slow)], ids=["304", "1000"]
)
def test_wild_clients(
    serving: tuple[Server, Callable[[], None]],
    num_requests: int,
    seed: int,
    record_property: Callable[[str, object], None],
) -> None:
    server, stop = serving
    warm_up = 160
    run_clients(server.address, seed + 100, warm_up)
    before = psutil.Process().memory_info().rss
    counts = run_clients(server.address, seed, num_requests)
    growth = psutil.Process().memory_info().rss - before

    with Client(server.address) as client:
        assert client.ask("still there?", max_tokens=2).finish_reason in ("stop", "length")
    stop()  # those who vanished last have then ended as well
    tally = server.tally
    report = {"requests": num_requests, "endings": dict(counts), "rss_growth_mib": round(growth / 2**20, 1)}
    record_property("stress", json.dumps(report))
    print(json.dumps(report | {"server": str(tally)}))

    assert sum(counts.values()) == num_requests
    assert {"finished", "cancelled", "context_overflow", "bad_image", "vanished"} <= counts.keys(), "a quiet run"
    assert counts.keys() <= {"finished", "cancelled", "context_overflow", "bad_image", "vanished", "overloaded"}
    assert tally.accepted == tally.finished + tally.failed + tally.lost
    assert growth < MAX_GROWTH_BYTES, report
