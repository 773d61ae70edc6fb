"""Qwen3-VL checkpoints with random weights: for tests, demos and measurements where no real weights can be had.

The folder loads unchanged in `transformers` 4.57. Weights are drawn and written a few rows at a time, so an 8B
checkpoint needs little memory. Knows nothing of graphs or bundles; `random_weights.py` draws the weights,
and the family says which there are, and writes the rest.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from edge_export.families.qwen3_vl.random_model import config_for, tensor_specs
from edge_export.families.qwen3_vl.random_processor_files import write_processor_files
from edge_export.random_weights import DTYPES, write_weights

ALIASES = {"fp32": "float32", "f32": "float32", "fp16": "float16", "f16": "float16", "bf16": "bfloat16"}


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
