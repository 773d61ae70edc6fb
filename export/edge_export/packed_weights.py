"""Writes weights in the layout of `edge.Linear` (edge_kernels/packing.py): quantized and packed piece by piece.

Knows nothing of graphs. Scales are float16; the quantizer rounds to them first, so packing loses nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from edge_export.quantize import RoundTrip, quantize
from edge_export.weight_writer import BITS, StoredMatrix, WeightWriter
from edge_kernels.packing import GROUP, PackedWeight, pack, pack_gate_up
from edge_runtime.model.manifest import TensorFormat

Shape = tuple[int, ...]


def write_stacked(
    writer: WeightWriter, matrices: Sequence[tuple[str, Shape]], tensor_format: TensorFormat
) -> StoredMatrix:
    """Write the weights (name, shape) as one, their outputs one after the other.

    All but the last have a multiple of `GROUP` rows: `resolve_scheme` refuses models where they would not.
    """
    assert all(shape[0] % GROUP == 0 for _, shape in matrices[:-1])
    num_rows = sum(shape[0] for _, shape in matrices)

    def packed() -> Iterator[PackedWeight]:
        for name, shape in matrices:
            yield from _packed_rows(writer, (name,), shape, tensor_format)

    def write() -> StoredMatrix:
        return _write(writer, packed(), -(-num_rows // GROUP), (num_rows, math.prod(matrices[0][1][1:])), tensor_format)

    return writer.once(("stacked", *(name for name, _ in matrices)), write)


def write_gate_up(
    writer: WeightWriter, names: tuple[str, str], shape: Shape, tensor_format: TensorFormat
) -> StoredMatrix:
    """Write two weights of one shape for the activation `silu_mul`: groups of outputs alternate gate, up, gate, up."""

    def write() -> StoredMatrix:
        packed = _packed_rows(writer, names, shape, tensor_format)
        return _write(writer, packed, 2 * -(-shape[0] // GROUP), (shape[0], math.prod(shape[1:])), tensor_format)

    return writer.once(("gate_up", *names), write)


def _packed_rows(
    writer: WeightWriter, names: tuple[str, ...], shape: Shape, tensor_format: TensorFormat
) -> Iterator[PackedWeight]:
    """The rows of one weight, or of a gate and an up in turn, piece by piece; records what was lost."""
    bits, block_size = BITS[tensor_format.weights], tensor_format.block_size
    assert block_size is not None
    for name in names:
        writer.weights.require(name, shape)

    def work(start: int, stop: int) -> tuple[PackedWeight, list[RoundTrip]]:
        quantized = [
            quantize(writer.weights.rows(name, start, stop), bits, block_size, half_scales=True) for name in names
        ]
        packed = [pack(blocks.values, blocks.scales, bits) for blocks, _ in quantized]
        joined = packed[0] if len(packed) == 1 else pack_gate_up(*packed)
        return joined, [round_trip for _, round_trip in quantized]

    totals = [RoundTrip() for _ in names]
    for packed, round_trips in writer.pieces(names, work, multiple=GROUP):
        totals = [total + lost for total, lost in zip(totals, round_trips, strict=True)]
        yield packed
    for name, total in zip(names, totals, strict=True):
        writer.record(name, tensor_format, total)


def _write(
    writer: WeightWriter,
    packed: Iterable[PackedWeight],
    num_groups: int,
    size: tuple[int, int],
    tensor_format: TensorFormat,
) -> StoredMatrix:
    """Write the pieces of one matrix; `size` is its outputs and inputs."""
    scales: list[NDArray[np.float16]] = []

    def values() -> Iterator[NDArray[np.uint8]]:
        for piece in packed:
            scales.append(piece.scales)
            yield piece.weight

    assert tensor_format.block_size is not None
    num_blocks = -(-size[1] // tensor_format.block_size)
    steps = num_blocks * tensor_format.block_size * BITS[tensor_format.weights] // 32
    stored = writer.file.append(values(), (num_groups, steps, 64))
    stored_scales = writer.file.append(scales, (num_groups, num_blocks, GROUP))
    return StoredMatrix(tensor_format, *size, stored, stored_scales)
