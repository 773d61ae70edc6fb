"""What the decoder graphs take and give, and interleaved M-RoPE: three position ids per token, and tables of them.

Knows no pixels. The rules: transformers' `qwen3_vl/modeling_qwen3_vl.py: get_rope_index, Qwen3VLTextRotaryEmbedding`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from edge_runtime.devices.profile import KVDtype
from edge_runtime.families.contract import FLOAT, INT32, INT64, Contract, Shape
from edge_runtime.families.qwen3_vl.config import Architecture, TextArchitecture
from edge_runtime.families.qwen3_vl.processor import VisionSpan

_CACHE_DTYPES: Mapping[KVDtype, str] = {"fp32": FLOAT, "fp16": "tensor(float16)", "int8": "tensor(int8)"}


def prompt_positions(num_tokens: int, spans: Sequence[VisionSpan]) -> tuple[NDArray[np.int64], int]:
    """Position ids [3, T] (time, row, column) of a prompt, and its rope delta.

    Text counts up on all three axes alike. A grid of image tokens stands at one time, spreads over rows and columns,
    and the text after it goes on past its longer side. A video is separate grids: its time is in the text between them.
    The token at index i after the prompt has position i + delta on every axis.
    """
    positions = np.empty((3, num_tokens), dtype=np.int64)
    index = 0
    position = 0
    for span in spans:
        position = _fill_text(positions, index, span.start, position)
        rows, columns = np.divmod(np.arange(span.grid.num_tokens), span.grid.columns)
        positions[:, span.start : span.stop] = position + np.stack((np.zeros_like(rows), rows, columns))
        position += max(span.grid.rows, span.grid.columns)
        index = span.stop
    position = _fill_text(positions, index, num_tokens, position)
    return positions, position - num_tokens


def _fill_text(positions: NDArray[np.int64], start: int, stop: int, position: int) -> int:
    positions[:, start:stop] = np.arange(position, position + stop - start)
    return position + stop - start


class RotaryTables:
    """Cosine and sine tables for any position ids."""

    def __init__(self, text: TextArchitecture) -> None:
        half = text.head_dim // 2
        exponent = np.arange(0, text.head_dim, 2, dtype=np.float32) / np.float32(text.head_dim)
        power = np.power(text.rope_theta, exponent.astype(np.float64)).astype(np.float32)
        self._inv_freq = np.float32(1) / power  # [head_dim / 2]
        # Frequency j turns with time, except that rows take 1, 4, 7, ... and columns 2, 5, 8, ..., as many as they own.
        self._axis = np.zeros(half, dtype=np.int64)
        for axis in (1, 2):
            self._axis[axis : text.mrope_section[axis] * 3 : 3] = axis

    def __call__(self, position_ids: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Tables cos, sin, float32 [T, head_dim / 2], of `position_ids` [3, T]."""
        angles = position_ids.astype(np.float32)[self._axis].T * self._inv_freq  # [T, head_dim / 2]
        return np.cos(angles), np.sin(angles)


def portable_decoder_contract(architecture: Architecture, *, gives_hidden: bool) -> Contract:
    """`decoder.onnx`, flavour `portable`."""
    text = architecture.text
    cache: tuple[str, Shape] = (FLOAT, (1, text.num_kv_heads, None, text.head_dim))
    names = [f"{kind}.{layer}" for layer in range(text.num_layers) for kind in ("key", "value")]
    return Contract(
        inputs={
            **_decoder_inputs(architecture),
            "seqlens_k": (INT32, (1,)),
            "total_sequence_length": (INT32, ()),
            **{f"past_{name}": cache for name in names},
        },
        outputs={**_decoder_outputs(architecture, gives_hidden), **{f"present_{name}": cache for name in names}},
    )


def edge_decoder_contract(architecture: Architecture, kv_dtype: KVDtype, *, gives_hidden: bool) -> Contract:
    """`decoder.<kv_dtype>.onnx`, flavour `edge`."""
    text = architecture.text
    pools: dict[str, tuple[str, Shape]] = {}
    for layer in range(text.num_layers):
        for kind in ("key", "value"):
            pools[f"{kind}_cache.{layer}"] = (_CACHE_DTYPES[kv_dtype], (None, text.num_kv_heads, None, text.head_dim))
            if kv_dtype == "int8":
                pools[f"{kind}_scale.{layer}"] = (FLOAT, (None, text.num_kv_heads, None))
    return Contract(
        inputs={
            **_decoder_inputs(architecture),
            "block_table": (INT32, (None, None)),
            **dict.fromkeys(("token_row", "token_slot", "token_keys"), (INT32, (None,))),
            **pools,
        },
        outputs=_decoder_outputs(architecture, gives_hidden),
    )


def _decoder_inputs(architecture: Architecture) -> dict[str, tuple[str, Shape]]:
    text, taps = architecture.text, len(architecture.vision.deepstack_layers)
    half = text.head_dim // 2
    deepstack: dict[str, tuple[str, Shape]] = {"deepstack": (FLOAT, (taps, None, text.hidden_size))} if taps else {}
    return {
        "inputs_embeds": (FLOAT, (None, text.hidden_size)),
        "rope_cos": (FLOAT, (None, half)),
        "rope_sin": (FLOAT, (None, half)),
        "logits_rows": (INT64, (None,)),
        **deepstack,
    }


def _decoder_outputs(architecture: Architecture, gives_hidden: bool) -> dict[str, tuple[str, Shape]]:
    text = architecture.text
    outputs: dict[str, tuple[str, Shape]] = {"logits": (FLOAT, (None, text.vocab_size))}
    if gives_hidden:
        outputs["hidden"] = (FLOAT, (None, text.hidden_size))
    return outputs
