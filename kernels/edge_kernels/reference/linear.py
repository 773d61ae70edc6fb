"""`edge.Linear`: rows of activations, quantized to int8 block by block, times INT4 or INT8 block weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_kernels.packing import GROUP, PackedWeight, one_per_byte, unpack

SMALLEST_SCALE, LARGEST_SCALE = 2.0**-31, 2.0**60
"""Range of the scales that are powers of two."""


def quantize_rows(
    x: NDArray[np.float32], block_size: int, power_of_two: bool
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Each row and block to int8: q = round(x / scale), ties to even, with scale = max|x| / 127.

    `power_of_two` rounds scales up to one, as int4 weights want it. x: float32 [rows, in], finite.
    Returns q int8 [rows, blocks, block_size] (zeros past `in`) and scales [rows, blocks].
    """
    rows, features = x.shape
    blocks = np.pad(x, ((0, 0), (0, -features % block_size))).reshape(rows, -1, block_size)
    largest = np.abs(blocks).max(axis=2)
    safe = np.where(largest > 0, largest, 1)
    if power_of_two:
        mantissa, exponent = np.frexp(largest / np.float32(127))
        powers = np.ldexp(1.0, exponent - (mantissa == 0.5))
        scales = np.clip(powers, SMALLEST_SCALE, LARGEST_SCALE).astype(np.float32)
        inverse = np.float32(1) / scales
    else:
        scales = largest / np.float32(127)
        inverse = np.float32(127) / safe
    q = np.rint(blocks * np.where(largest > 0, inverse, 0).astype(np.float32)[:, :, None]).astype(np.int8)
    return q, scales


@dataclass(frozen=True, slots=True)
class LinearSpec:
    """The attributes of the op."""

    bits: int
    block_size: int
    out_features: int
    activation: str = "none"
    """none, gelu, gelu_tanh, or silu_mul: silu(gate) * up, the groups of the weight alternating between the two"""


def linear(
    x: NDArray[np.float32],
    weight: PackedWeight,
    spec: LinearSpec,
    bias: NDArray[np.float32] | None = None,
    residual: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """act(x @ dequantized(weight).T + bias) + residual, with x quantized by `quantize_rows`.

    x: float32 [rows, in]; a value that is not finite makes its row NaN. Returns float32 [rows, out_features].
    """
    finite = np.isfinite(x).all(axis=1, keepdims=True)
    channels = weight.weight.shape[0] * GROUP
    stored, scales = unpack(weight, spec.bits, channels)
    w = one_per_byte(stored, spec.bits).astype(np.int32) - (8 if spec.bits == 4 else 128)
    q, x_scales = quantize_rows(np.where(finite, x, 0), spec.block_size, power_of_two=spec.bits == 4)
    y = np.where(finite, 0.0, np.nan) * np.ones(channels)
    for b in range(w.shape[1]):
        sums = q[:, b].astype(np.float64) @ w[:, b].T  # exact: whole numbers below 2^53
        y += sums * x_scales[:, b, None].astype(np.float64) * scales[None, :, b]
    if spec.activation == "silu_mul":
        gate, up = np.moveaxis(y.reshape(x.shape[0], -1, 2, GROUP), 2, 0)
        y = (gate / (1 + np.exp(-gate)) * up).reshape(x.shape[0], -1)
    y = y[:, : spec.out_features] + (0 if bias is None else bias)
    if spec.activation == "gelu":
        y = y * 0.5 * (1 + np.vectorize(math.erf)(y / math.sqrt(2)))
    if spec.activation == "gelu_tanh":
        y = y * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)))
    return (y + (0 if residual is None else residual)).astype(np.float32)
