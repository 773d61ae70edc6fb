"""Whom `ask` asks: a bundle in this process, or a server at an address. Both are the same to the command."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import typer

from edge_runtime.cli.question import Question, Say
from edge_runtime.devices.memory import MemoryPlan, MemoryRequest
from edge_runtime.engine.engine import Engine
from edge_runtime.engine.events import Delta, Failed, Finished
from edge_runtime.engine.load import PlannedBundle
from edge_runtime.engine.pocket import bundle_folder
from edge_runtime.engine.request import GenerationRequest
from edge_runtime.engine.thread import EngineThread
from edge_runtime.errors import BadParameter, BundleError, InternalError
from edge_runtime.model.pocket import NAME
from edge_runtime.serving.address import is_address
from edge_runtime.serving.client import Client
from edge_runtime.serving.model_info import model_info

_STOP_S = 5.0
"""How long a cancelled graph run may take to notice."""


@dataclass(frozen=True, slots=True)
class LocalOptions:
    """How a bundle is loaded in this process; a server decided that when it started."""

    profile: str
    max_pixels: int | None
    on_plan: Callable[[MemoryPlan], None] | None
    """Hears what the model will take, before it is loaded."""


Answers = Callable[[Question], Iterator[Delta | Finished]]
"""The pieces of an answer, `Finished` last. Raises the `EdgeError` that ended it."""


@contextmanager
def open_target(target: str, local: LocalOptions, say: Say | None) -> Iterator[Answers]:
    """Connect to the address, or check and plan the bundle; `say` hears what became of pictures. Raises `EdgeError`."""
    if is_address(target):
        if local.profile != "auto":
            raise BadParameter(f"the profile is the server's choice; leave it out, or ask a bundle instead of {target}")
        with Client(target) as client:
            yield lambda question: _ask_server(client, question, say)
    else:
        bundle = bundle_folder(target)
        if not bundle.exists():
            raise BundleError(
                f"{target!r} is neither a folder nor an address such as tcp://127.0.0.1:5633, nor the name {NAME}"
            )
        request = MemoryRequest(max_chats=1, max_pixels=local.max_pixels)
        planned = PlannedBundle.open(bundle, local.profile, request)
        yield lambda question: _ask_engine(planned, local, question, say)


def _ask_server(client: Client, question: Question, say: Say | None) -> Iterator[Delta | Finished]:
    if question.max_pixels is not None and not question.has_pictures:
        raise BadParameter("max_pixels makes images and videos smaller, and the question has none; leave it out")
    # The server tells how it wants a video, and how large an image may be; else nothing needs to be known about it.
    served = client.info() if question.video is not None or (question.images and say is not None) else None
    stream = client.generate(question.messages(served, say), question.options)
    with stream:
        yield from stream
        yield stream.result


def _ask_engine(
    planned: PlannedBundle, local: LocalOptions, question: Question, say: Say | None
) -> Iterator[Delta | Finished]:
    request = GenerationRequest("ask", question.messages(model_info(planned), say), question.options)
    if local.on_plan is not None:
        local.on_plan(planned.plan)
        if planned.parity_notice is not None:
            typer.echo(planned.parity_notice, err=True)
    yield from _events(planned.load(), request)


def _events(engine: Engine, request: GenerationRequest) -> Iterator[Delta | Finished]:
    """Run `request` in a thread of its own, so that Ctrl-C is noticed, and cancels, inside a running graph."""
    news = threading.Event()
    thread = EngineThread(engine, news.set)
    thread.start()
    thread.submit(request)
    try:
        while True:
            news.wait()
            news.clear()
            is_alive = thread.alive  # asked before its events are taken, so that its last words count
            for event in thread.take_events():
                if isinstance(event, Failed):
                    raise event.error
                yield event
                if isinstance(event, Finished):
                    return
            if not is_alive:
                raise InternalError("the engine failed; the log above has the reason")
    finally:
        thread.cancel(request.request_id)
        thread.stop(_STOP_S)
