"""edge_runtime as its users run it: `edge-runtime serve`, asked through the client over the socket."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil

from benchmarks.peers.adapter import Mode, RunSettings, Said, TurnResult
from edge_runtime.engine.events import Finished
from edge_runtime.model.conversation import ImagePart, Message, Part, TextPart
from edge_runtime.serving import link
from edge_runtime.serving.client import Client, Session
from edge_runtime.serving.client_core import Timeouts
from edge_runtime.serving.sockets import Dealer

PATIENT = Timeouts(first_token_s=3600.0, idle_s=3600.0)


class EdgeServer:
    """A running server with its default plan, which has a KV cache for several chats; one client."""

    def __init__(self, bundle: Path, settings: RunSettings) -> None:
        program = Path(sys.executable).with_name("edge-runtime")
        with settings.log.open("ab") as log:
            self._process = subprocess.Popen(
                [str(program), "serve", str(bundle), "--bind", "tcp://127.0.0.1:*"],
                stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        self._client = Client(self._address(), timeouts=PATIENT)
        link.Dealer = _CountingDealer  # type: ignore[attr-defined]
        self._client.info()
        self._session: Session | None = None
        self._asked: list[Said] = []

    def run_turn(self, history: Sequence[Said], max_tokens: int, *, ignore_eos: bool, mode: Mode) -> TurnResult:
        """Time to the first token: of the whole, less what came after it by the server's clock."""
        options: dict[str, Any] = {"max_tokens": max_tokens, "ignore_eos": ignore_eos}
        if mode == "forgetful":
            options["cache_salt"] = uuid4().hex  # what others, and other turns, have computed is not looked at
        ask = self._in_session if mode == "session" else self._whole
        sent_before, started_s = _CountingDealer.sent_bytes, time.perf_counter()
        answer = ask(history, options)
        total_s, timings = time.perf_counter() - started_s, answer.timings
        return TurnResult(
            first_token_s=total_s - (timings.total_ms - timings.first_token_ms) / 1e3,
            total_s=total_s,
            prompt_tokens=timings.prompt_tokens,
            output_tokens=timings.output_tokens,
            text=answer.text,
            computed_tokens=timings.prompt_tokens - timings.cached_tokens,
            vision_s=timings.vision_ms / 1e3,
            sent_bytes=_CountingDealer.sent_bytes - sent_before,
        )

    def _whole(self, history: Sequence[Said], options: dict[str, Any]) -> Finished:
        messages = [Message(said.role, _parts(said)) for said in history]  # type: ignore[arg-type]
        return self._client.generate(messages, **options).result

    def _in_session(self, history: Sequence[Said], options: dict[str, Any]) -> Finished:
        *before, last = history
        if self._session is None:
            system = [Message("system", said.text) for said in before]
            self._session = self._client.session(messages=system, skip_unchanged=True)
        is_again, self._asked = list(history) == self._asked, list(history)
        if is_again:
            return self._session.regenerate(**options)
        return self._session.ask(last.text, images=[Path(image) for image in last.images], **options)

    def process_ids(self) -> Sequence[int]:
        """The server's, and that of the process in which it decodes pictures."""
        server = psutil.Process(self._process.pid)
        return [server.pid, *(child.pid for child in server.children(recursive=True))]

    def close(self) -> None:
        """Stop the server."""
        self._client.close()
        self._process.terminate()
        self._process.wait(timeout=60)

    def _address(self) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("serving "):
                return line.split()[-1]
        raise RuntimeError(f"edge-runtime serve ended with status {self._process.wait()}")


class _CountingDealer(Dealer):
    """The client's socket, which counts what it is given to send."""

    sent_bytes = 0

    def send(self, frames: Sequence[bytes]) -> bool:
        _CountingDealer.sent_bytes += sum(map(len, frames))
        return super().send(frames)


def _parts(said: Said) -> tuple[Part, ...]:
    return (*(ImagePart(Path(image).read_bytes()) for image in said.images), TextPart(said.text))
