"""onnxruntime-genai on the CPU: the decoder only, for it has no vision export for Qwen3-VL and no DeepStack.

The decoder is prepared as the Qwen3 text model that it is without images: the same matrices, one-axis rotary positions.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.adapter import CannotRun, ImageResult, RunSettings, TextResult

TEXT_PREFIX = "model.language_model."
ACCURACY_LEVEL = "4"
"""INT8 activations, the fastest of MatMulNBits on a CPU."""


def prepare(checkpoint: Path, out: Path, options: Mapping[str, str]) -> dict[str, str]:
    """Build the INT4 graph, block `options["block_size"]`, with the package's own model builder."""
    from importlib.metadata import version  # noqa: PLC0415

    text_model = out / "text-checkpoint"
    write_text_checkpoint(checkpoint, text_model)
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(text_model), "-o", str(out)]
    command += ["-p", "int4", "-e", "cpu", "-c", str(out / "cache"), "--extra_options"]
    command += [f"int4_accuracy_level={ACCURACY_LEVEL}", f"int4_block_size={options['block_size']}"]
    subprocess.run(command, check=True, stdout=2)
    shutil.rmtree(text_model)
    shutil.copy(checkpoint / "tokenizer.json", out / "tokenizer.json")
    weights = f"INT4 block {options['block_size']}, no vision"
    return {"version": version("onnxruntime-genai"), "weights": weights}


def load(model: Path, settings: RunSettings) -> GenAiModel:
    """Load the graph with the given number of threads."""
    return GenAiModel(model, settings)


class GenAiModel:
    """A loaded decoder."""

    def __init__(self, model: Path, settings: RunSettings) -> None:
        import onnxruntime_genai  # noqa: PLC0415
        from tokenizers import Tokenizer  # noqa: PLC0415

        self._genai: Any = onnxruntime_genai
        config = onnxruntime_genai.Config(str(model))
        threads = {"intra_op_num_threads": settings.num_threads}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": threads}}}))
        self._model = onnxruntime_genai.Model(config)
        self._tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))

    def run_text(self, prompt: str, max_tokens: int) -> TextResult:
        """Wall clock around the generator's two calls."""
        ids = self._tokenizer.encode(prompt, add_special_tokens=False).ids
        params = self._genai.GeneratorParams(self._model)
        length = len(ids) + max_tokens
        params.set_search_options(max_length=length, min_length=length, do_sample=False)
        generator = self._genai.Generator(self._model, params)
        started_s = time.perf_counter()
        generator.append_tokens(ids)
        generator.generate_next_token()
        first_s = time.perf_counter()
        for _ in range(max_tokens - 1):
            generator.generate_next_token()
        return TextResult(len(ids), first_s - started_s, max_tokens - 1, time.perf_counter() - first_s)

    def run_image(self, image: Path, prompt: str) -> ImageResult:  # noqa: ARG002 - the seam's signature
        """Not possible."""
        raise CannotRun("onnxruntime-genai exports no vision tower for Qwen3-VL")

    def process_ids(self) -> Sequence[int]:
        """This one."""
        return (os.getpid(),)

    def close(self) -> None:
        """Nothing to stop."""


def write_text_checkpoint(checkpoint: Path, out: Path) -> None:
    """The decoder of a Qwen3-VL checkpoint as a Qwen3ForCausalLM checkpoint: renamed, not converted."""
    out.mkdir()
    source = json.loads((checkpoint / "config.json").read_text())
    text = {key: value for key, value in source["text_config"].items() if key != "rope_scaling"}
    config = text | {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "torch_dtype": source["dtype"]}
    (out / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"):
        shutil.copy(checkpoint / name, out / name)
    for shard in checkpoint.glob("*.safetensors"):
        _copy_text_tensors(shard, out / shard.name)


def _copy_text_tensors(source: Path, out: Path) -> None:
    """Header length (u64), JSON header, tensors: the safetensors format, less the vision tower's tensors."""
    with source.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        data_start = file.tell()
        kept = {name: entry for name, entry in header.items() if name.startswith((TEXT_PREFIX, "lm_head."))}
        renamed, offset = {}, 0
        for name, entry in kept.items():
            begin, end = entry["data_offsets"]
            place = [offset, offset + end - begin]
            renamed[name.replace(TEXT_PREFIX, "model.")] = entry | {"data_offsets": place}
            offset = place[1]
        encoded = json.dumps(renamed | {"__metadata__": {"format": "pt"}}).encode()
        encoded += b" " * (-len(encoded) % 8)
        with out.open("wb") as target:
            target.write(len(encoded).to_bytes(8, "little") + encoded)
            for entry in kept.values():
                begin, end = entry["data_offsets"]
                file.seek(data_start + begin)
                target.write(file.read(end - begin))
