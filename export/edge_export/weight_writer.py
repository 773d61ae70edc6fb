"""Carries tensors from the checkpoint into a tensor file, in the wanted format, a few rows at a time.

Reading, widening and quantizing run on all cores, writing follows in order; only a few pieces are in memory at any
time. Knows nothing of graphs.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from edge_export.checkpoint.safetensors_file import ITEM_BYTES
from edge_export.checkpoint.weights import Weights
from edge_export.quantize import QuantizedBlocks, RoundTrip, quantize
from edge_export.tensor_file import StoredTensor, TensorFile
from edge_runtime.model.manifest import TensorError, TensorFormat

PIECE_VALUES = 1 << 20
"""Values handled as one task: 4 MB as float32."""

BITS = {"int4": 4, "int8": 8}

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class StoredMatrix:
    """A matrix [rows, columns] of the bundle: `values` alone for fp32, quantized `values` and `scales` otherwise."""

    format: TensorFormat
    rows: int
    columns: int
    values: StoredTensor
    scales: StoredTensor | None


@dataclass(slots=True)
class WeightWriter:
    """Writes the checkpoint's tensors into one tensor file, each once; `errors` collects what quantization lost."""

    weights: Weights
    file: TensorFile
    on_read: Callable[[int], None]
    """Called with the number of checkpoint bytes that were just worked off."""
    errors: list[TensorError] = field(default_factory=list)
    _written: dict[tuple[str, ...], Any] = field(default_factory=dict)

    def once(self, key: tuple[str, ...], write: Callable[[], Result]) -> Result:
        """What `write` returned when it was first asked for under `key`: several graphs may share a tensor."""
        if key not in self._written:
            self._written[key] = write()
        written: Result = self._written[key]
        return written

    def vector(self, name: str, shape: tuple[int, ...]) -> StoredTensor:
        """Write a small or unquantized tensor as float32 of `shape`."""
        self.weights.require(name, shape)

        def write() -> StoredTensor:
            return self.file.append(
                self.pieces((name,), lambda start, stop: self.weights.rows(name, start, stop)), shape
            )

        return self.once(("float32", name), write)

    def matrix(self, name: str, source_shape: tuple[int, ...], tensor_format: TensorFormat) -> StoredMatrix:
        """Write a weight of a linear layer, [rows, columns] once the later dimensions are flattened."""
        rows, columns = source_shape[0], int(np.prod(source_shape[1:]))
        if tensor_format.block_size is None:
            values = self.vector(name, source_shape)
            flat = StoredTensor(values.file, values.offset, values.dtype, (rows, columns))
            return StoredMatrix(tensor_format, rows, columns, flat, None)
        self.weights.require(name, source_shape)
        bits, block_size = BITS[tensor_format.weights], tensor_format.block_size
        scales: list[NDArray[np.float32]] = []
        total = RoundTrip()

        def quantize_rows(start: int, stop: int) -> tuple[QuantizedBlocks, RoundTrip]:
            return quantize(self.weights.rows(name, start, stop), bits, block_size)

        def packed() -> Iterator[NDArray[np.uint8]]:
            nonlocal total
            for blocks, round_trip in self.pieces((name,), quantize_rows):
                scales.append(blocks.scales)
                total += round_trip
                yield blocks.values

        num_blocks = -(-columns // block_size)
        values = self.file.append(packed(), (rows, num_blocks, block_size * bits // 8))
        stored_scales = self.file.append(scales, (rows, num_blocks))
        self.record(name, tensor_format, total)
        return StoredMatrix(tensor_format, rows, columns, values, stored_scales)

    def record(self, name: str, tensor_format: TensorFormat, lost: RoundTrip) -> None:
        """Note what quantizing the tensor `name` lost."""
        self.errors.append(
            TensorError(name=name, weights=tensor_format.weights, relative_rms=lost.relative_rms, max_abs=lost.max_abs)
        )

    def pieces(
        self, names: tuple[str, ...], work: Callable[[int, int], Result], *, multiple: int = 1
    ) -> Iterator[Result]:
        """`work(start, stop)` over all rows of the equally shaped tensors `names`, on all cores, results in order.

        Every `start` is a multiple of `multiple`.
        """
        entry = self.weights.entries[names[0]]
        num_rows, row_values = entry.shape[0], entry.size // entry.shape[0]
        row_bytes = sum(row_values * ITEM_BYTES[self.weights.entries[name].dtype] for name in names)
        step = max(1, PIECE_VALUES // (row_values * multiple)) * multiple
        if num_rows <= step:  # most tensors: not worth a thread
            result = work(0, num_rows)
            self.on_read(num_rows * row_bytes)
            yield result
            return
        threads = os.cpu_count() or 1
        pending: deque[tuple[int, Future[Result]]] = deque()
        with ThreadPoolExecutor(threads) as pool:
            try:
                for start in range(0, num_rows, step):
                    stop = min(start + step, num_rows)
                    pending.append(((stop - start) * row_bytes, pool.submit(work, start, stop)))
                    if len(pending) > 2 * threads:
                        yield self._finish(*pending.popleft())
                while pending:
                    yield self._finish(*pending.popleft())
            finally:
                pool.shutdown(cancel_futures=True)

    def _finish(self, num_bytes: int, future: Future[Result]) -> Result:
        result = future.result()
        self.on_read(num_bytes)
        return result
