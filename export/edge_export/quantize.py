"""Symmetric block quantization, in the layout of ONNX Runtime's `MatMulNBits`: quantize and dequantize as twins.

A block is `block_size` consecutive values of one row; value = (q - zero_point) * scale, with q in 0..2^bits - 1 and
zero_point = 2^(bits - 1). Scales are signed: the value of largest magnitude may sit at the end of the range that
reaches further. Knows nothing of files, graphs or models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

CHUNK_VALUES = 1 << 16
"""Values searched at once: three float32 copies of them stay in a core's cache."""

DIVISORS: dict[int, tuple[float, ...]] = {
    4: (7.0, 7.3, 7.6, 7.8, 8.0, 8.2, 8.5, 9.0),
    8: (127.0, 128.0),
}
"""Places of the range at which the search tries to put a block's value of largest magnitude. Beyond the end of the
range it is clipped and the others are finer; for 8 bits that never pays."""

TINY = 1e-30
"""A block that holds nothing larger is stored as zeros: the inverse of its scale would overflow."""

MAX_HALF = float(np.finfo(np.float16).max)
"""Scales are cut there: such weights mean nothing, and the round-trip error says so."""


@dataclass(frozen=True, slots=True)
class QuantizedBlocks:
    """A quantized matrix."""

    values: NDArray[np.uint8]
    """[rows, blocks, block_size * bits / 8]; of two int4 in a byte the first is the low half."""
    scales: NDArray[np.float32]
    """[rows, blocks]; for half scales every one is a number that float16 holds."""


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """How far dequantized values are from the original ones; adds up over the pieces of a tensor."""

    squared_error: float = 0.0
    squares: float = 0.0
    max_abs: float = 0.0

    def __add__(self, other: RoundTrip) -> RoundTrip:
        return RoundTrip(
            self.squared_error + other.squared_error, self.squares + other.squares, max(self.max_abs, other.max_abs)
        )

    @property
    def relative_rms(self) -> float:
        """||w - dequantize(quantize(w))|| / ||w||; 0 for a tensor of zeros."""
        return float((self.squared_error / self.squares) ** 0.5) if self.squares else 0.0


def quantize(
    weight: NDArray[np.float32], bits: int, block_size: int, *, half_scales: bool = False
) -> tuple[QuantizedBlocks, RoundTrip]:
    """Quantize `weight` [rows, columns] with the scales of least squared error among those searched.

    A short last block is padded with zeros. `bits` is 4 or 8. `half_scales` rounds scales to float16 before the values
    are, so that storing them as float16 loses nothing more.
    """
    rows, columns = weight.shape
    blocks = -(-columns // block_size)
    if columns % block_size:
        weight = np.pad(weight, ((0, 0), (0, blocks * block_size - columns)))
    flat = weight.reshape(rows * blocks, block_size)
    packed = np.empty((rows * blocks, block_size * bits // 8), dtype=np.uint8)
    scales = np.empty(rows * blocks, dtype=np.float32)
    step = max(1, CHUNK_VALUES // block_size)
    work = _Workspace(block_size, min(step, len(flat)))
    round_trip = RoundTrip()
    for start in range(0, len(flat), step):
        piece = slice(start, min(start + step, len(flat)))
        round_trip += _quantize_piece(flat[piece], bits, work, (packed[piece], scales[piece]), half_scales=half_scales)
    return QuantizedBlocks(packed.reshape(rows, blocks, -1), scales.reshape(rows, blocks)), round_trip


def dequantize(blocks: QuantizedBlocks, bits: int, columns: int) -> NDArray[np.float32]:
    """The matrix [rows, columns] that `blocks` stands for: the twin of `quantize`."""
    values = blocks.values
    if bits == 4:
        values = np.stack([values & 15, values >> 4], axis=-1).reshape(*values.shape[:2], -1)
    centered = values.astype(np.float32) - np.float32(1 << (bits - 1))
    weight: NDArray[np.float32] = centered * blocks.scales[:, :, None]
    return weight.reshape(len(weight), -1)[:, :columns]


class _Workspace:
    """Arrays [block_size, n] reused from piece to piece; blocks are columns, so that every step runs over long rows."""

    __slots__ = ("product", "rounded", "weight")

    def __init__(self, block_size: int, num_blocks: int) -> None:
        self.weight, self.rounded, self.product = np.empty((3, block_size, num_blocks), dtype=np.float32)

    def narrowed(self, num_blocks: int) -> _Workspace:
        """The same memory for a last, shorter piece."""
        block_size = self.weight.shape[0]
        if num_blocks == self.weight.shape[1]:
            return self
        return _Workspace(block_size, num_blocks)


def _quantize_piece(
    flat: NDArray[np.float32],
    bits: int,
    work: _Workspace,
    out: tuple[NDArray[np.uint8], NDArray[np.float32]],
    *,
    half_scales: bool,
) -> RoundTrip:
    """Quantize the blocks `flat` [n, block_size] into `out`: packed values and scales."""
    packed, scales = out
    work = work.narrowed(len(flat))
    weight, rounded, product = work.weight, work.rounded, work.product
    np.copyto(weight, flat.T)
    scale = _search_scales(work, bits)
    if half_scales:
        scale = np.clip(scale, -MAX_HALF, MAX_HALF).astype(np.float16).astype(np.float32)
    scales[:] = scale

    _round(weight, _inverse(scale), bits, out=rounded)
    _pack(rounded, bits, out=packed)
    np.multiply(rounded, scale, out=product)
    np.subtract(weight, product, out=product)
    max_abs = max(float(product.max()), -float(product.min()))
    return RoundTrip(_sum_of_squares(product), _sum_of_squares(weight), max_abs)


def _search_scales(work: _Workspace, bits: int) -> NDArray[np.float32]:
    """The best scale of every block [n].

    For rounded values q the scale of least squared error is <w, q> / <q, q>, and it leaves <w, w> - <w, q>^2 / <q, q>.
    So each candidate is judged by <w, q>^2 / <q, q>, and the winner's scale is the fitted one.
    """
    weight, rounded, product = work.weight, work.rounded, work.product
    high, low = weight.max(axis=0), weight.min(axis=0)
    extreme = np.where(-low > high, low, high)
    best_gain = np.full(len(extreme), -1.0, dtype=np.float32)
    best_scale = np.zeros(len(extreme), dtype=np.float32)
    for divisor in DIVISORS[bits]:
        _round(weight, _inverse(extreme / np.float32(-divisor)), bits, out=rounded)
        np.multiply(weight, rounded, out=product)
        projection = product.sum(axis=0)
        np.multiply(rounded, rounded, out=product)
        norm = np.maximum(product.sum(axis=0), 1.0)  # 0 only where every q is 0
        fitted = projection / norm
        gain = fitted * projection
        better = gain > best_gain
        np.copyto(best_gain, gain, where=better)
        np.copyto(best_scale, fitted, where=better)
    return best_scale


def _inverse(scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """1 / scale, and 0 where the block is as good as zero."""
    usable = np.abs(scale) > TINY
    return np.where(usable, 1 / np.where(usable, scale, 1), 0).astype(np.float32)


def _round(weight: Any, inverse_scale: NDArray[np.float32], bits: int, out: NDArray[np.float32]) -> None:
    """The nearest representable integers of `weight / scale`, as floats, into `out`."""
    half = 1 << (bits - 1)
    np.multiply(weight, inverse_scale, out=out)
    np.rint(out, out=out)
    np.clip(out, -half, half - 1, out=out)


def _pack(rounded: NDArray[np.float32], bits: int, out: NDArray[np.uint8]) -> None:
    """Integers [block_size, n] around 0 to unsigned bytes [n, block_size * bits / 8]."""
    unsigned = (rounded + np.float32(1 << (bits - 1))).astype(np.uint8)
    out[:] = unsigned.T if bits == 8 else (unsigned[0::2] | (unsigned[1::2] << 4)).T


def _sum_of_squares(values: NDArray[np.float32]) -> float:
    return float(np.vdot(values, values))
