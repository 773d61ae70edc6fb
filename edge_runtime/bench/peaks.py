"""What this machine can do at best: bytes read, and int8 operations, per second, with loops of the kernel library.

A peak is a maximum, so the best of several repetitions counts, and each takes a good part of a second: of two threads
that work for milliseconds both may run on one core. Knows nothing of bundles.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from edge_kernels.library import KernelLibrary

BUFFER_BYTES = 1 << 29
"""Far larger than any cache, so that a pass over it comes from memory."""
REPETITION_S = 0.5
_FIRST_AMOUNT = 4
"""Rounds of a loop to begin with; they are doubled until they take `REPETITION_S`."""


@dataclass(frozen=True, slots=True)
class MachinePeaks:
    """The best of several repetitions, all on the same number of threads."""

    num_threads: int
    isa: str
    """The instruction set of the int8 operations."""
    read_bytes_per_s: float
    int8_ops_per_s: float
    """A multiply and an add are two."""


def measure_peaks(library: KernelLibrary, num_threads: int, repeats: int) -> MachinePeaks:
    """Measure on `num_threads` threads; takes some seconds, and `BUFFER_BYTES` of memory."""
    isa = library.chosen().name
    parts = np.array_split(np.ones(BUFFER_BYTES, dtype=np.uint8), num_threads)

    def read(thread: int, passes: int) -> float:
        for _ in range(passes):
            library.read(parts[thread])
        return float(parts[thread].nbytes * passes)

    def multiply(_: int, thousands: int) -> float:
        return library.int8_peak(isa, 1000 * thousands)

    with ThreadPoolExecutor(num_threads) as pool:
        return MachinePeaks(
            num_threads=num_threads,
            isa=isa,
            read_bytes_per_s=_best_rate(pool, read, num_threads, repeats),
            int8_ops_per_s=_best_rate(pool, multiply, num_threads, repeats),
        )


def _best_rate(pool: ThreadPoolExecutor, work: Callable[[int, int], float], num_threads: int, repeats: int) -> float:
    """The highest rate of `work(thread, rounds)`, which says how much it did, on all threads at once."""

    def timed(rounds: int) -> tuple[float, float]:
        started = perf_counter()
        done = sum(pool.map(work, range(num_threads), [rounds] * num_threads))
        return done, perf_counter() - started

    rounds = _FIRST_AMOUNT
    while timed(rounds)[1] < REPETITION_S:
        rounds *= 2
    return max(done / seconds for done, seconds in (timed(rounds) for _ in range(repeats)))
