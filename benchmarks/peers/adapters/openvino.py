"""OpenVINO GenAI's VLMPipeline on the CPU, on a model that optimum-intel exports (which needs transformers < 5)."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.adapter import CannotRun, ImageResult, Mode, RunSettings, Said, TextResult, TurnResult


def prepare(checkpoint: Path, out: Path, options: Mapping[str, str]) -> dict[str, str]:
    """Export with INT4 decoder weights in groups of `options["group_size"]`; the rest, vision included, gets INT8."""
    from importlib.metadata import version  # noqa: PLC0415

    command = [sys.executable, "-m", "optimum.commands.optimum_cli", "export", "openvino", "--model", str(checkpoint)]
    command += ["--task", "image-text-to-text", "--weight-format", "int4", "--group-size", options["group_size"]]
    command += ["--ratio", "1.0", "--sym", str(out)]
    subprocess.run(command, check=True, stdout=2)
    return {"version": version("openvino-genai"), "weights": f"INT4 group {options['group_size']}, vision INT8"}


def load(model: Path, settings: RunSettings) -> OpenVinoModel:
    """Compile the pipeline for the CPU."""
    import openvino_genai  # noqa: PLC0415

    return OpenVinoModel(openvino_genai.VLMPipeline(str(model), "CPU", INFERENCE_NUM_THREADS=settings.num_threads))


def load_chat(model: Path, settings: RunSettings) -> OpenVinoModel:
    """The same: what it keeps of earlier turns it keeps by default."""
    return load(model, settings)


class OpenVinoModel:
    """A compiled pipeline; times are its own metrics."""

    def __init__(self, pipeline: Any) -> None:
        self._pipeline = pipeline
        self._said: list[Said] = []
        self._history: Any = None  # its `ChatHistory`, which remembers what pictures its messages had

    def run_text(self, prompt: str, max_tokens: int) -> TextResult:
        """Time to first token and per token after it."""
        metrics = self._generate(prompt, max_tokens)
        decode_tokens = metrics.get_num_generated_tokens() - 1
        return TextResult(
            prompt_tokens=metrics.get_num_input_tokens(),
            prefill_s=metrics.get_ttft().mean / 1e3,
            decode_tokens=decode_tokens,
            decode_s=metrics.get_tpot().mean * decode_tokens / 1e3,
        )

    def run_image(self, image: Path, prompt: str) -> ImageResult:
        """Vision is what the pipeline calls preparing embeddings: resizing, the tower, and the prompt's rows."""
        started_s = time.perf_counter()
        metrics = self._generate(prompt, 1, images=[_pixels(str(image))])
        return ImageResult(
            prompt_tokens=metrics.get_num_input_tokens(),
            first_token_s=time.perf_counter() - started_s,
            vision_s=metrics.get_prepare_embeddings_duration().mean / 1e3,
        )

    def run_turn(self, history: Sequence[Said], max_tokens: int, *, ignore_eos: bool, mode: Mode) -> TurnResult:
        """One `ChatHistory` that grows; pictures are given once, with the message that brings them."""
        import openvino_genai  # noqa: PLC0415

        if mode != "history":
            raise CannotRun(f"its chat is not {mode}")
        started_s = time.perf_counter()
        if self._history is None or list(history[: len(self._said)]) != self._said:
            self._said, self._history = [], openvino_genai.ChatHistory()
        new = history[len(self._said) :]
        if any(said.images for said in new[:-1]):
            raise CannotRun("pictures can only come with the last message")
        for said in new:
            self._history.append({"role": said.role, "content": said.text})
        self._said = list(history)
        config = _greedy(max_tokens, ignore_eos)
        images = [_pixels(image) for said in new for image in said.images]
        answer = self._pipeline.generate(self._history, images=images, generation_config=config)
        total_s, metrics = time.perf_counter() - started_s, answer.perf_metrics
        output_tokens = metrics.get_num_generated_tokens()
        later_s = metrics.get_tpot().mean / 1e3 * (output_tokens - 1) if output_tokens > 1 else 0.0
        return TurnResult(
            first_token_s=total_s - later_s,
            total_s=total_s,
            prompt_tokens=metrics.get_num_input_tokens(),
            output_tokens=output_tokens,
            text=answer.texts[0],
        )

    def process_ids(self) -> Sequence[int]:
        """This one."""
        return (os.getpid(),)

    def close(self) -> None:
        """Nothing to stop."""

    def _generate(self, prompt: str, max_tokens: int, **media: Any) -> Any:
        config = _greedy(max_tokens, ignore_eos=True)
        config.apply_chat_template = False
        return self._pipeline.generate(prompt, generation_config=config, **media).perf_metrics


def _greedy(max_tokens: int, ignore_eos: bool) -> Any:
    import openvino_genai  # noqa: PLC0415

    config = openvino_genai.GenerationConfig()
    config.max_new_tokens = max_tokens
    config.ignore_eos = ignore_eos
    config.do_sample = False
    return config


def _pixels(image: str) -> Any:
    """A PNG file as a tensor, uint8 [1, height, width, 3]."""
    import numpy as np  # noqa: PLC0415
    import openvino  # noqa: PLC0415
    from PIL import Image  # noqa: PLC0415

    with Image.open(image) as opened:
        return openvino.Tensor(np.asarray(opened.convert("RGB"))[None])
