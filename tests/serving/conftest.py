"""A server in a thread, over an engine whose behaviour a test chooses by the words of its prompt."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest

from edge_runtime.engine.cache_info import CacheInfo
from edge_runtime.engine.events import Delta, Event, Failed, Finished, Timings
from edge_runtime.engine.request import GenerationRequest
from edge_runtime.engine.session import Sessions
from edge_runtime.errors import BadImage, Cancelled, EdgeError, PicturesNeeded
from edge_runtime.model.cancellation import CancelToken
from edge_runtime.model.conversation import ImagePart, Picture, PictureDigest, TextPart, VideoPart
from edge_runtime.serving.messages import ModelInfo, VideoSampling
from edge_runtime.serving.server import Server
from edge_runtime.serving.settings import ServerSettings

VIDEO = VideoSampling(
    fps=2.0,
    min_frames=4,
    max_frames=768,
    min_pixels=4096,
    max_pixels=1 << 20,
    patch_size=16,
    spatial_merge_size=2,
    temporal_patch_size=2,
)
MODEL = ModelInfo("fake", "portable", 4096, 1 << 20, VIDEO, "0.0")


class FakeEngine:
    """One word per step and request; the prompt says which.

    `count N`: N words, then `Finished`; `hold`: one word, then nothing until cancelled; `silent`: nothing until
    cancelled; `flood`: long words until cancelled, while `floodgate` is set; `parts`: what the message was made of;
    `refuse`: an error in `prepare`; `break`: a bug in `prepare`; `crash`: a bug in `step`; `prepare slowly`: as `hold`,
    once `prepared` is set.
    """

    cache_info = CacheInfo(prompt_tokens=40, cached_tokens=10, images=3, vision_cached=1)

    def __init__(self) -> None:
        self.running: dict[str, tuple[GenerationRequest, list[str]]] = {}
        self.tokens: dict[str, CancelToken] = {}
        self.cancelled: set[str] = set()
        self.ended: Counter[str] = Counter()
        self.requests: list[GenerationRequest] = []
        self.changed = threading.Condition()
        self.is_forgetful = False
        """Whether it needs all pictures that come by digest."""
        self.floodgate = threading.Event()
        self.floodgate.set()
        self.sessions = Sessions()
        self.preparing, self.prepared = threading.Event(), threading.Event()

    @property
    def has_work(self) -> bool:
        return bool(self.running)

    def prepare(self, request: GenerationRequest, cancel: CancelToken) -> GenerationRequest:
        if request.messages and _prompt(request) == "prepare slowly":
            self.preparing.set()
            assert self.prepared.wait(20)
        return self.sessions.prepared(request, cancel, partial(self._prepare, cancel))

    def _prepare(self, cancel: CancelToken, request: GenerationRequest) -> GenerationRequest:
        prompt = _prompt(request)
        self.requests.append(request)
        needed = [picture.digest for picture in pictures_of(request) if isinstance(picture, PictureDigest)]
        if needed and self.is_forgetful:
            raise PicturesNeeded.of(needed)
        if prompt == "refuse":
            raise BadImage("no such picture")
        if prompt == "break":
            raise ZeroDivisionError
        self.tokens[request.request_id] = cancel
        return request

    def add(self, request: GenerationRequest, client: object = None) -> None:
        with self.changed:
            self.running[request.request_id] = (request, [])
            self.changed.notify_all()

    def cancel(self, request_id: str) -> None:
        with self.changed:
            self.cancelled.add(request_id)
            self.changed.notify_all()

    def step(self) -> list[Event]:
        events: list[Event] = []
        for request_id in list(self.running):
            events += self._advance(request_id)
        if not events:  # all hold: as a real engine takes its time over a step
            with self.changed:
                self.changed.wait(0.02)
        return events

    def open_floodgate(self, num_running: int) -> None:
        """Let floods begin as soon as so many requests run: what is cancelled before it runs never ends here."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.running) == num_running, 20)
        self.floodgate.set()

    def wait_until_idle(self, num_ended: int) -> None:
        """Wait until so many requests have ended, and none runs."""
        with self.changed:
            assert self.changed.wait_for(lambda: self.ended.total() >= num_ended and not self.running, 20)

    def _advance(self, request_id: str) -> list[Event]:
        request, words = self.running[request_id]
        verb, _, argument = _prompt(request).partition(" ")
        if request_id in self.cancelled or self.tokens[request_id].cancelled:
            return [self._end(request_id, Failed(request_id, Cancelled(self.tokens[request_id].reason)))]
        if verb == "crash":
            raise ZeroDivisionError
        if verb == "flood" and not self.floodgate.is_set():
            return []
        if verb == "silent" or (verb in ("hold", "prepare") and words):
            return []
        word = {"flood": "x" * 20_000, "parts": str(_describe(request))}.get(verb, f"{len(words)} ")
        words.append(word)
        events: list[Event] = [Delta(request_id, word, "answer", (len(words),))]
        if verb == "parts" or (verb == "count" and len(words) == int(argument)):
            tokens = tuple(range(1, len(words) + 1))
            unchanged = request.num_unchanged
            timings = Timings(total_ms=1.5, prompt_tokens=7, output_tokens=len(words), unchanged_images=unchanged)
            events.append(self._end(request_id, Finished(request_id, "".join(words), "stop", "", tokens, timings)))
        return events

    def _end(self, request_id: str, event: Event) -> Event:
        self.sessions.end(self.running[request_id][0], event.message if isinstance(event, Finished) else None)
        with self.changed:
            del self.running[request_id]
            self.ended[request_id] += 1
            self.changed.notify_all()
        return event


@dataclass
class RunningServer:
    server: Server
    engine: FakeEngine
    thread: threading.Thread
    errors: list[EdgeError]

    @property
    def address(self) -> str:
        return self.server.address

    def join(self) -> None:
        """Wait for `run` to return by itself."""
        self.thread.join(20)
        assert not self.thread.is_alive()

    def stop(self) -> None:
        self.server.stop()
        self.join()


@pytest.fixture
def serve() -> Iterator[Callable[..., RunningServer]]:
    """Starts servers (keyword arguments are `ServerSettings`) on free ports; all must end when told to."""
    started: list[RunningServer] = []

    def start(**settings: object) -> RunningServer:
        settings = {"bind": "tcp://127.0.0.1:*", "heartbeat_s": 0.1, "shutdown_grace_s": 0.2, **settings}
        engine = FakeEngine()
        server = Server(ServerSettings(**settings))  # type: ignore[arg-type]
        errors: list[EdgeError] = []

        def run() -> None:
            try:
                server.run(engine, MODEL)
            except EdgeError as error:
                errors.append(error)

        running = RunningServer(server, engine, threading.Thread(target=run), errors)
        running.thread.start()
        started.append(running)
        return running

    yield start
    for running in started:
        running.stop()
        assert set(running.engine.ended.values()) <= {1}, "the engine itself ended a request twice"


def _prompt(request: GenerationRequest) -> str:
    return "".join(part.text for part in request.messages[-1].content if isinstance(part, TextPart))


def pictures_of(request: GenerationRequest) -> list[Picture]:
    """All pictures of a request, those of videos, too."""
    parts = [part for message in request.messages for part in message.content if not isinstance(part, TextPart)]
    return [frame for part in parts for frame in ((part.data,) if isinstance(part, ImagePart) else part.frames)]


def _describe(request: GenerationRequest) -> list[object]:
    described: list[object] = []
    for message in request.messages:
        described.append(message.role)
        for part in message.content:
            if isinstance(part, TextPart):
                described.append(part.text)
            elif isinstance(part, ImagePart):
                described.append((_picture(part.data), part.min_pixels, part.max_pixels))
            elif isinstance(part, VideoPart):
                described.append(([_picture(frame) for frame in part.frames], list(part.timestamps_s)))
    return described


def _picture(data: object) -> object:
    return (data.shape, int(data.sum(dtype=np.int64))) if isinstance(data, np.ndarray) else data
