"""Weights in the layout the kernels read, and back.

From the block quantization of docs/bundle.md (as ONNX Runtime's MatMulNBits): int4 `uint8 [out, blocks, block/2]`, low
nibble first, or int8 `uint8 [out, blocks, block]`, with float32 scales `[out, blocks]`. To groups of sixteen output
channels, each step of sixty-four bytes holding for every channel 8 inputs (int4) or 4 (int8):

    int4  [groups, in/8, 16, 4]   byte j: input j in the low nibble, input 4 + j in the high one; zero point 8
    int8  [groups, in/4, 16, 4]   zero point 128
    scales float16 [groups, blocks, 16]

A last group of fewer than sixteen channels is filled up with zero weights of scale zero. Packing is exact but for the
scales, which are rounded to float16: a quantizer that wants no such error rounds them first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Scalar = TypeVar("Scalar", bound=np.generic)

GROUP = 16
"""Output channels side by side in one step."""


@dataclass(frozen=True, slots=True)
class PackedWeight:
    """One matrix as the `Linear` op takes it."""

    weight: NDArray[np.uint8]
    """[groups, in/8 or in/4, 64]"""
    scales: NDArray[np.float16]
    """[groups, blocks, 16]"""


def pack(weight: NDArray[np.uint8], scales: NDArray[Any], bits: int) -> PackedWeight:
    """Pack one block-quantized matrix.

    weight: uint8 [out, blocks, block * bits / 8]; scales [out, blocks]. Raises `ValueError` on other shapes, or where
    a scale does not fit float16.
    """
    _check(weight, scales, bits)
    out, blocks, _ = weight.shape
    values = one_per_byte(weight, bits).reshape(out, -1)
    values = _pad_channels(values, 8 if bits == 4 else 128)
    steps = values.reshape(-1, GROUP, values.shape[1] * bits // 32, 32 // bits).transpose(0, 2, 1, 3)
    if bits == 4:
        steps = steps[..., :4] | (steps[..., 4:] << 4)
    packed = np.ascontiguousarray(steps).reshape(steps.shape[0], steps.shape[1], 64)
    half = _to_half(_pad_channels(np.asarray(scales, np.float32), 0))
    return PackedWeight(packed, np.ascontiguousarray(half.reshape(-1, GROUP, blocks).transpose(0, 2, 1)))


def pack_gate_up(gate: PackedWeight, up: PackedWeight) -> PackedWeight:
    """Join two matrices of one shape for the activation `silu_mul`: groups alternate gate, up, gate, up."""
    if gate.weight.shape != up.weight.shape or gate.scales.shape != up.scales.shape:
        raise ValueError(f"gate is {gate.weight.shape}, up is {up.weight.shape}: wanted the same shape")
    return PackedWeight(_interleave(gate.weight, up.weight), _interleave(gate.scales, up.scales))


def concatenate(weights: list[tuple[NDArray[np.uint8], NDArray[Any]]], bits: int) -> PackedWeight:
    """Pack several matrices with the same inputs as one, outputs one after the other (Q, K and V)."""
    return pack(np.concatenate([w for w, _ in weights]), np.concatenate([s for _, s in weights]), bits)


def unpack(packed: PackedWeight, bits: int, out_features: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The matrix and scales that `pack` was given (scales as rounded to float16): its inverse."""
    groups, blocks, _ = packed.scales.shape
    steps = packed.weight.reshape(groups, -1, GROUP, 4)
    if bits == 4:
        steps = np.concatenate([steps & 15, steps >> 4], axis=3)
    values = steps.transpose(0, 2, 1, 3).reshape(groups * GROUP, blocks, -1)[:out_features]
    if bits == 4:
        values = values[..., 0::2] | (values[..., 1::2] << 4)
    scales = packed.scales.transpose(0, 2, 1).reshape(groups * GROUP, blocks)[:out_features]
    return np.ascontiguousarray(values), scales.astype(np.float32)


def dequantize(packed: PackedWeight, bits: int, out_features: int) -> NDArray[np.float32]:
    """The matrix in float32, [out_features, in] with `in` padded to whole blocks."""
    weight, scales = unpack(packed, bits, out_features)
    values = one_per_byte(weight, bits).astype(np.float32) - (8 if bits == 4 else 128)
    return (values * scales[:, :, None]).reshape(out_features, -1)


def one_per_byte(weight: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Stored values [out, blocks, block], one in a byte each, of a matrix as `pack` takes it."""
    if bits == 8:
        return weight
    return np.stack([weight & 15, weight >> 4], axis=-1).reshape(*weight.shape[:2], -1)


def _interleave(a: NDArray[Scalar], b: NDArray[Scalar]) -> NDArray[Scalar]:
    return np.stack([a, b], axis=1).reshape(-1, *a.shape[1:])


def _pad_channels(values: NDArray[Scalar], fill: int) -> NDArray[Scalar]:
    missing = -values.shape[0] % GROUP
    return np.pad(values, ((0, missing), (0, 0)), constant_values=fill) if missing else values


def _to_half(scales: NDArray[np.float32]) -> NDArray[np.float16]:
    largest = np.abs(scales).max(initial=0)
    if not largest <= np.finfo(np.float16).max:
        raise ValueError(f"scales go up to {largest}, wanted numbers that float16 holds")
    return scales.astype(np.float16)


def _check(weight: NDArray[np.uint8], scales: NDArray[Any], bits: int) -> None:
    if bits not in (4, 8):
        raise ValueError(f"bits is {bits}, wanted 4 or 8")
    if weight.dtype != np.uint8 or weight.ndim != 3 or scales.shape != weight.shape[:2]:
        raise ValueError(
            f"weight is {weight.dtype} {weight.shape} with scales {scales.shape}, wanted uint8 [out, blocks, bytes] "
            "with scales [out, blocks]"
        )
    block = weight.shape[2] * 8 // bits
    if block not in (32, 64, 128):
        raise ValueError(f"weight is {weight.shape} of {bits} bits: blocks of {block}, wanted 32, 64 or 128")
