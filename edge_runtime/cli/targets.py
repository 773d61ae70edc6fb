"""Whom `ask` asks: a bundle in this process, or a server at an address. Both are the same to the command."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.cli.loading import PlannedBundle, plan_bundle, video_sampling
from edge_runtime.engine.events import Delta, Failed, Finished
from edge_runtime.engine.request import GenerationRequest, SamplingParams
from edge_runtime.errors import BundleError
from edge_runtime.model.conversation import Message, Part, TextPart
from edge_runtime.serving.address import is_address
from edge_runtime.serving.client import Client
from edge_runtime.serving.images import image_part
from edge_runtime.serving.messages import VideoSampling
from edge_runtime.vision.video import read_video


@dataclass(frozen=True, slots=True)
class Question:
    """What the command line asks."""

    prompt: str
    images: tuple[Path, ...]
    video: Path | None
    sampling: SamplingParams
    max_tokens: int

    def messages(self, sampling: VideoSampling | None) -> tuple[Message, ...]:
        """The chat: images, video, prompt. Raises `BadImage` for files that cannot be read."""
        parts: list[Part] = [image_part(path) for path in self.images]
        if self.video is not None and sampling is not None:
            parts.append(read_video(self.video, sampling, sampling))
        return (Message("user", (*parts, TextPart(self.prompt))),)


Answers = Callable[[Question], Iterator[Delta | Finished]]
"""The pieces of an answer, `Finished` last. Raises the `EdgeError` that ended it."""


@contextmanager
def open_target(target: str, profile: str) -> Iterator[Answers]:
    """Connect to the address, or load the bundle. Raises `EdgeError`."""
    if is_address(target):
        with Client(target) as client:
            yield lambda question: _ask_server(client, question)
    elif not Path(target).exists():
        raise BundleError(f"{target!r} is neither a folder nor an address such as tcp://127.0.0.1:5633")
    else:
        planned = plan_bundle(Path(target), profile)
        yield lambda question: _ask_engine(planned, question)


def _ask_server(client: Client, question: Question) -> Iterator[Delta | Finished]:
    # Without a video nothing needs to be known about the server first.
    video = client.info().video if question.video is not None else None
    messages = question.messages(video)
    with client.generate(messages, sampling=question.sampling, max_tokens=question.max_tokens) as stream:
        yield from stream
        yield stream.result


def _ask_engine(planned: PlannedBundle, question: Question) -> Iterator[Delta | Finished]:
    messages = question.messages(video_sampling(planned.bundle.manifest))
    request = GenerationRequest("ask", messages, question.sampling, question.max_tokens)
    for event in planned.load().generate(request):
        if isinstance(event, Failed):
            raise event.error
        yield event
