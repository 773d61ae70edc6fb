"""Writes a training checkpoint as a Hugging Face model folder that transformers and `edge-export` load unchanged.

`python -m pocket.train.export CHECKPOINT` fills `pocket/weights`.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from pocket.train.config import PATCH, model_config
from pocket.train.tokenizer import WEIGHTS, special_ids, tokenizer_config, vocabulary_size

_PIXELS = {
    "patch_size": PATCH,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
}
_COMMITTED = ("tokenizer.json", "chat_template.jinja", "README.md")  # what no checkpoint decides
MIN_PIXELS, MAX_PIXELS = 128 * 64, 768 * 512


def image_processor() -> dict[str, Any]:
    """The content of `preprocessor_config.json`."""
    return {
        **_PIXELS,
        "image_processor_type": "Qwen2VLImageProcessorFast",
        "processor_class": "Qwen3VLProcessor",
        "size": {"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS},
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "do_convert_rgb": True,
        "rescale_factor": 1 / 255,
        "resample": 3,
    }


def video_processor() -> dict[str, Any]:
    """The content of `video_preprocessor_config.json`. Sizes count pixels of all frames together, as Qwen3-VL's do."""
    return {
        **_PIXELS,
        "video_processor_type": "Qwen3VLVideoProcessor",
        "processor_class": "Qwen3VLProcessor",
        "size": {"shortest_edge": MIN_PIXELS * 2, "longest_edge": MAX_PIXELS * 16},
        "fps": 2,
        "min_frames": 2,
        "max_frames": 32,
        "do_sample_frames": True,
    }


def generation() -> dict[str, Any]:
    """The content of `generation_config.json`: greedy, since every question has one right answer."""
    ids = special_ids()
    return {
        "bos_token_id": ids["<|endoftext|>"],
        "pad_token_id": ids["<|endoftext|>"],
        "eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]],
        "do_sample": False,
        "max_new_tokens": 256,
    }


def export(checkpoint: Path, folder: Path = WEIGHTS) -> int:
    """Fills `folder` from a checkpoint of the joint phase; returns the size of the weights in bytes."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)["model"]
    # lm_head is tied to the embeddings, so the file holds one of them.
    tensors = {name: t.to(torch.bfloat16).contiguous() for name, t in state.items() if name != "lm_head.weight"}
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / "model.safetensors"
    save_file(tensors, weights, metadata={"format": "pt"})
    weights.chmod(0o644)  # safetensors writes files for their owner only
    if folder.resolve() != WEIGHTS.resolve():
        for name in _COMMITTED:
            shutil.copyfile(WEIGHTS / name, folder / name)
    files = {
        "config.json": model_config(vocabulary_size(), special_ids()),
        "tokenizer_config.json": tokenizer_config(),
        "preprocessor_config.json": image_processor(),
        "video_preprocessor_config.json": video_processor(),
        "generation_config.json": generation(),
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    return weights.stat().st_size


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--folder", type=Path, default=WEIGHTS)
    options = parser.parse_args()
    print(export(options.checkpoint, options.folder) / 1e6, "MB in", options.folder)
