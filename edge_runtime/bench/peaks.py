"""What this machine can do at best: bytes read per second, and operations per second of plain matrix multiplies.

The multiplies are ONNX Runtime's own `MatMul` and `MatMulInteger` on large square matrices: what a good general library
reaches, not what the data sheet says. Knows nothing of bundles.
"""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np

from edge_runtime.bench.matmul_graph import matmul_graph
from edge_runtime.model.cancellation import CancelToken
from edge_runtime.model.session import Array, Graph, SessionSettings

BUFFER_BYTES = 1 << 29
"""Far larger than any cache, so that a pass over it comes from memory."""
MATRIX_SIZE = 2048


@dataclass(frozen=True, slots=True)
class MachinePeaks:
    """Medians, all on the same number of threads."""

    num_threads: int
    read_bytes_per_s: float
    fp32_ops_per_s: float
    """A multiply and an add are two."""
    int8_ops_per_s: float
    """uint8 x int8, summed in int32."""


def measure_peaks(num_threads: int, repeats: int) -> MachinePeaks:
    """Measure on `num_threads` threads; takes a few seconds and `BUFFER_BYTES` of memory."""
    settings = SessionSettings(num_threads=num_threads)
    return MachinePeaks(
        num_threads=num_threads,
        read_bytes_per_s=_read_rate(num_threads, repeats),
        fp32_ops_per_s=_matmul_rate("MatMul", np.dtype(np.float32), np.dtype(np.float32), settings, repeats),
        int8_ops_per_s=_matmul_rate("MatMulInteger", np.dtype(np.uint8), np.dtype(np.int8), settings, repeats),
    )


def _read_rate(num_threads: int, repeats: int) -> float:
    """libc's `memchr` for a byte that is not there: vectorized, reads only, and ctypes lets go of the GIL."""
    buffer = np.ones(BUFFER_BYTES, dtype=np.uint8)
    memchr = ctypes.CDLL(None).memchr
    memchr.argtypes, memchr.restype = (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t), ctypes.c_void_p
    parts = np.array_split(buffer, num_threads)

    def search(part: Array) -> None:
        if memchr(part.ctypes.data, 0, part.nbytes) is not None:
            raise AssertionError("there is no zero to be found")

    with ThreadPoolExecutor(num_threads) as pool:
        return BUFFER_BYTES / _median_seconds(lambda: list(pool.map(search, parts)), repeats)


def _matmul_rate(
    operator: str, left: np.dtype[np.generic], right: np.dtype[np.generic], settings: SessionSettings, repeats: int
) -> float:
    """Operations per second of a square product; the right side is a constant, so it is packed once, as weights are."""
    size = MATRIX_SIZE
    rng = np.random.default_rng(0)
    weights = rng.integers(-100, 100, (size, size)).astype(right)
    rows = rng.integers(0, 100, (size, size)).astype(left)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "matmul.onnx"
        path.write_bytes(matmul_graph(operator, left, weights))
        graph = Graph(path, settings)
        seconds = _median_seconds(lambda: graph.run({"a": rows}, CancelToken()), repeats)
    return 2 * size**3 / seconds


def _median_seconds(work: Callable[[], object], repeats: int) -> float:
    work()  # once for the allocations
    times = []
    for _ in range(repeats):
        started = perf_counter()
        work()
        times.append(perf_counter() - started)
    return median(times)
