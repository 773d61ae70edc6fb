"""Qwen3-VL checkpoints with random weights: for tests, demos and measurements where no real weights can be had.

The folder loads unchanged in `transformers` 4.57. Weights are drawn and written a few rows at a time, so an 8B
checkpoint needs little memory. Knows nothing of graphs or bundles; `random_weights.py` draws the weights,
`random_processor_files.py` writes the rest.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from edge_export.random_processor_files import write_processor_files
from edge_export.random_weights import DTYPES, tensor_specs, write_weights

ALIASES = {"fp32": "float32", "f32": "float32", "fp16": "float16", "f16": "float16", "bf16": "bfloat16"}


def config_for(size: str) -> dict[str, Any]:
    """`config.json` of a published size ("2b", "4b", "8b"), or of a model small enough for tests ("tiny").

    The published sizes are those of the Qwen/Qwen3-VL-{2B,4B,8B}-Instruct model pages. Raises `ValueError` otherwise.
    """
    small_tower = {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "deepstack_visual_indexes": [5, 11, 17]}
    large_tower = {
        "depth": 27,
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "deepstack_visual_indexes": [8, 16, 24],
    }
    if size == "tiny":
        tower = {"depth": 4, "hidden_size": 64, "intermediate_size": 128, "deepstack_visual_indexes": [0, 1, 2]}
        config = _config(hidden=64, layers=4, heads=(4, 2), intermediate=128, tied=True, tower=tower)
        config["text_config"] |= {"head_dim": 32, "vocab_size": 1024, "rope_theta": 10000}
        config["text_config"]["rope_scaling"]["mrope_section"] = [6, 5, 5]
        config["vision_config"]["num_heads"] = 4
        return _with_special_tokens(config, first_special_id=960)
    if size == "2b":
        config = _config(hidden=2048, layers=28, heads=(16, 8), intermediate=6144, tied=True, tower=small_tower)
    elif size == "4b":
        config = _config(hidden=2560, layers=36, heads=(32, 8), intermediate=9728, tied=True, tower=small_tower)
    elif size == "8b":
        config = _config(hidden=4096, layers=36, heads=(32, 8), intermediate=12288, tied=False, tower=large_tower)
    else:
        raise ValueError(f"there is no size {size!r}; choose one of tiny, 2b, 4b, 8b")
    return _with_special_tokens(config, first_special_id=151643)


def write_random_checkpoint(
    out: Path,
    config: dict[str, Any],
    *,
    dtype: str = "float32",
    seed: int = 0,
    max_shard_bytes: int | None = None,
    thinking: bool = False,
) -> None:
    """Write a checkpoint folder of the architecture `config` (a `config.json` as a dict) with random weights.

    The same arguments give the same bytes. `max_shard_bytes` splits the weights into shards with an index;
    `thinking` gives the chat template a generation prompt that opens `<think>`, as the Thinking models have.
    Raises `ValueError` for an unknown dtype and `FileExistsError` where `out` already holds something.
    """
    dtype = ALIASES.get(dtype, dtype)
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}; choose one of {', '.join(DTYPES)}")
    if out.exists() and any(out.iterdir()):
        raise FileExistsError(f"{out} is not empty; give a new folder")
    out.mkdir(parents=True, exist_ok=True)
    config = config | {"dtype": dtype}
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    write_processor_files(out, config, thinking=thinking)
    write_weights(out, list(tensor_specs(config)), dtype, seed, max_shard_bytes)


def random_checkpoint_command(
    out: Annotated[Path, typer.Argument(help="Folder to write; must be new or empty.")],
    size: Annotated[str, typer.Option(help="tiny, 2b, 4b or 8b.")] = "tiny",
    dtype: Annotated[str, typer.Option(help="fp32, fp16 or bf16.")] = "bf16",
    seed: Annotated[int, typer.Option(help="The same seed gives the same weights.")] = 0,
    shard_gb: Annotated[float | None, typer.Option(help="Split the weights into files of at most this size.")] = None,
) -> None:
    """Write a Qwen3-VL checkpoint with random weights: its words mean nothing, its sizes and speed are real."""
    max_shard_bytes = None if shard_gb is None else int(shard_gb * 1e9)
    try:
        write_random_checkpoint(out, config_for(size), dtype=dtype, seed=seed, max_shard_bytes=max_shard_bytes)
    except (ValueError, FileExistsError) as error:
        raise typer.BadParameter(str(error)) from error
    typer.echo(f"wrote {out}")


# --- configuration -------------------------------------------------------------------------------------------------


def _config(
    *, hidden: int, layers: int, heads: tuple[int, int], intermediate: int, tied: bool, tower: dict[str, Any]
) -> dict[str, Any]:
    text = {
        "model_type": "qwen3_vl_text",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "head_dim": 128,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "initializer_range": 0.02,
        "intermediate_size": intermediate,
        "max_position_embeddings": 262144,
        "num_attention_heads": heads[0],
        "num_hidden_layers": layers,
        "num_key_value_heads": heads[1],
        "rms_norm_eps": 1e-06,
        "rope_scaling": {"mrope_interleaved": True, "mrope_section": [24, 20, 20], "rope_type": "default"},
        "rope_theta": 5000000,
        "tie_word_embeddings": tied,
        "use_cache": True,
        "vocab_size": 151936,
    }
    vision = {
        "model_type": "qwen3_vl",
        "hidden_act": "gelu_pytorch_tanh",
        "in_channels": 3,
        "initializer_range": 0.02,
        "num_heads": 16,
        "num_position_embeddings": 2304,
        "out_hidden_size": hidden,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }
    return {
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "model_type": "qwen3_vl",
        "text_config": text,
        "vision_config": vision | tower,
        "tie_word_embeddings": tied,
        "transformers_version": "4.57.6",
    }


def _with_special_tokens(config: dict[str, Any], first_special_id: int) -> dict[str, Any]:
    """Add the ids of Qwen's special tokens, which lie at fixed distances from the first, `<|endoftext|>`."""
    config["text_config"] |= {"bos_token_id": first_special_id, "eos_token_id": first_special_id + 2}
    return config | {
        "vision_start_token_id": first_special_id + 9,
        "vision_end_token_id": first_special_id + 10,
        "image_token_id": first_special_id + 12,
        "video_token_id": first_special_id + 13,
    }
