"""Speed of every op through ONNX Runtime, beside the machine's own limits and ONNX Runtime's MatMulNBits.

    python benchmarks/kernels.py [--build DIR] [--threads 2] [--repeats 7] [--only linear]

Contenders of a row run in turn, repeat by repeat; a figure is the median. With one thread it is the CPU time of that
thread, which other work on the machine disturbs little; with more it is the time on the wall. Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before the import; decision 45
import onnxruntime

from edge_kernels.library import KernelLibrary
from edge_kernels.packing import pack

Array = np.ndarray[Any, Any]
Run = Callable[[], object]


@dataclass(frozen=True)
class Result:
    """One row of the table."""

    what: str
    ms: float
    gops: float = 0.0
    gbps: float = 0.0
    matmulnbits_ms: float = 0.0


class Bench:
    """Graphs of single ops on one library with one number of threads."""

    def __init__(self, library: KernelLibrary, threads: int, repeats: int) -> None:
        self.library, self.threads, self.repeats = library, threads, repeats
        self.clock = time.thread_time if threads == 1 else time.perf_counter

    def medians(self, runs: list[Run]) -> list[float]:
        """Seconds of each run: all in turn, `repeats` times, after one round to warm up."""
        times: list[list[float]] = [[] for _ in runs]
        for repeat in range(self.repeats + 1):
            for run, taken in zip(runs, times, strict=True):
                start = self.clock()
                run()
                if repeat > 0:
                    taken.append(self.clock() - start)
        return [statistics.median(taken) for taken in times]

    def graph(
        self, op: str, feeds: dict[str, Array | None], weights: dict[str, Array | None], domain: str, **attributes: Any
    ) -> Run:
        """A graph of one node, bound to its inputs; `weights` are initializers."""
        both = feeds | weights
        node = onnx.helper.make_node(
            op, [n if v is not None else "" for n, v in both.items()], ["y"], domain=domain, **attributes
        )
        inputs = [
            onnx.helper.make_tensor_value_info(n, onnx.helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
            for n, v in feeds.items()
            if v is not None
        ]
        output = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
        initializers = [onnx.numpy_helper.from_array(v, n) for n, v in weights.items() if v is not None]
        graph = onnx.helper.make_graph([node], "bench", inputs, [output], initializers)
        opsets = [onnx.helper.make_opsetid(d, v) for d, v in (("", 21), ("edge", 1), ("com.microsoft", 1))]
        model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        # Graphs run in turn: the threads of one must not spin while another is timed.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.library.use_in(options)
        loaded = onnxruntime.InferenceSession(model.SerializeToString(), options)
        binding = loaded.io_binding()
        for name, value in feeds.items():
            if value is not None:
                binding.bind_input(name, "cpu", 0, value.dtype, value.shape, value.ctypes.data)
        binding.bind_output("y", "cpu")
        return lambda: loaded.run_with_iobinding(binding)

    def on_all_threads(self, work: Callable[[int], object]) -> Run:
        """A run of `work(i)` on every thread at once."""
        if self.threads == 1:
            return lambda: work(0)
        pool = ThreadPoolExecutor(self.threads)
        return lambda: list(pool.map(work, range(self.threads)))


def peaks(bench: Bench) -> Iterator[Result]:
    """What the machine can do: int8 operations on registers, reads of memory."""
    isa, steps = bench.library.chosen().name, 5_000_000
    ops = bench.threads * bench.library.int8_peak(isa, steps)
    memory = np.ones((bench.threads, 256 << 20), np.uint8)
    compute = bench.on_all_threads(lambda _: bench.library.int8_peak(isa, steps))
    read = bench.on_all_threads(lambda i: bench.library.read(memory[i]))
    compute_s, read_s = bench.medians([compute, read])
    yield Result(f"peak int8, {isa}", compute_s * 1e3, gops=ops / compute_s / 1e9)
    yield Result("peak read", read_s * 1e3, gbps=memory.nbytes / read_s / 1e9)


def linear(bench: Bench) -> Iterator[Result]:
    """Decoder-sized matrices, for one token, some tokens, and a prefill chunk."""
    rng = np.random.default_rng(0)
    shapes = [(1, 40960, 2048), (4, 40960, 2048), (32, 6144, 2048), (1024, 6144, 2048), (1024, 2048, 6144)]
    for bits, block in [(4, 32), (4, 128), (8, 32), (8, 128)]:
        for rows, out, features in shapes:
            stored = rng.integers(0, 256, (out, features // block, block * bits // 8), dtype=np.uint8)
            scales = rng.uniform(0.001, 0.01, (out, features // block)).astype(np.float16)
            packed = pack(stored, scales, bits)
            x = rng.standard_normal((rows, features), np.float32)
            ours = bench.graph(
                "Linear", {"x": x}, {"weight": packed.weight, "scales": packed.scales}, "edge",
                bits=bits, block_size=block, out_features=out, activation="none",
            )  # fmt: skip
            theirs = bench.graph(
                "MatMulNBits", {"x": x}, {"b": stored, "s": scales.astype(np.float32)}, "com.microsoft",
                bits=bits, block_size=block, N=out, K=features, accuracy_level=4,
            )  # fmt: skip
            ours_s, theirs_s = bench.medians([ours, theirs])
            nbytes = packed.weight.nbytes + packed.scales.nbytes
            yield Result(
                f"Linear int{bits} block {block}: {rows} x {features} -> {out}", ours_s * 1e3,
                2 * rows * out * features / ours_s / 1e9, nbytes / ours_s / 1e9, theirs_s * 1e3,
            )  # fmt: skip


def attention(bench: Bench) -> Iterator[Result]:
    """Heads of the 2B decoder: one token and a prefill chunk, after 128 and 4,096 tokens."""
    rng = np.random.default_rng(0)
    heads, kv_heads, head_dim, block = 16, 8, 128, 64
    for dtype in (np.float16, np.int8):
        for tokens, context in [(1, 128), (1, 4096), (512, 512), (512, 4096)]:
            slots = np.arange(context - tokens, context, dtype=np.int32)
            # Many layers' worth of cache, taken in turn, so that a decode step reads memory and not a cache.
            blocks, copies = context // block, 32 if tokens == 1 else 1
            pool = (copies * blocks, kv_heads, block, head_dim)
            feeds: dict[str, Array | None] = {
                "qkv": rng.standard_normal((tokens, (heads + 2 * kv_heads) * head_dim), np.float32),
                "q_norm": np.ones(head_dim, np.float32),
                "k_norm": np.ones(head_dim, np.float32),
                "rope_cos": np.ones((tokens, head_dim // 2), np.float32),
                "rope_sin": np.zeros((tokens, head_dim // 2), np.float32),
                "key_cache": np.ones(pool, dtype),
                "value_cache": np.ones(pool, dtype),
                "block_table": np.arange(blocks, dtype=np.int32)[None],
                "token_row": np.zeros(tokens, np.int32),
                "token_slot": slots,
                "token_keys": slots + 1,
            }
            if dtype is np.int8:
                feeds |= {name: np.ones(pool[:3], np.float32) for name in ("key_scale", "value_scale")}
            run = bench.graph("Attention", feeds, {}, "edge", num_heads=heads, num_kv_heads=kv_heads, epsilon=1e-6)
            table = feeds["block_table"]
            assert table is not None

            def layers(run: Run = run, table: Array = table, copies: int = copies, blocks: int = blocks) -> None:
                for layer in range(copies):
                    table[:] = np.arange(layer * blocks, (layer + 1) * blocks)
                    run()

            seconds = bench.medians([layers])[0] / copies
            flops = 4.0 * head_dim * heads * float(np.sum(slots + 1))
            nbytes = 2.0 * context * kv_heads * head_dim * np.dtype(dtype).itemsize
            yield Result(
                f"Attention {np.dtype(dtype).name} cache: {tokens} of {context}", seconds * 1e3,
                flops / seconds / 1e9, nbytes / seconds / 1e9,
            )  # fmt: skip


def vision_attention(bench: Bench) -> Iterator[Result]:
    """One layer of the 2B vision tower at 640x480 and 1280x720."""
    rng = np.random.default_rng(0)
    heads, head_dim = 16, 64
    for patches in (1200, 3600):
        angles = rng.uniform(0, 6, (patches, head_dim // 2)).astype(np.float32)
        feeds: dict[str, Array | None] = {
            "qkv": rng.standard_normal((patches, 3 * heads * head_dim), np.float32),
            "rope_cos": np.cos(angles),
            "rope_sin": np.sin(angles),
        }
        run = bench.graph("VisionAttention", feeds, {}, "edge", num_heads=heads)
        (seconds,) = bench.medians([run])
        yield Result(
            f"VisionAttention {patches} patches", seconds * 1e3, 4 * patches**2 * heads * head_dim / seconds / 1e9
        )


def small(bench: Bench) -> Iterator[Result]:
    """What moves memory: norms, patches, frame differences of a 1920x1088 screen."""
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((1024, 2048), np.float32), np.ones(2048, np.float32)
    norm = bench.graph("RMSNorm", {"x": x, "weight": weight, "residual": None}, {}, "edge", epsilon=1e-6)
    frame, other = rng.integers(0, 256, (2, 1088, 1920, 3), dtype=np.uint8)
    scale, offset = np.full(3, 2 / 255, np.float32), np.full(3, -1, np.float32)
    patches = bench.library.patchify([frame, frame], 16, 2, scale, offset)
    norm_s, patchify_s, diff_s = bench.medians(
        [
            norm,
            lambda: bench.library.patchify([frame, frame], 16, 2, scale, offset),
            lambda: bench.library.tile_diff(frame, other, 32),
        ]
    )
    yield Result("RMSNorm 1024 x 2048", norm_s * 1e3, gbps=2 * x.nbytes / norm_s / 1e9)
    yield Result(
        "patchify 1920x1088, one thread", patchify_s * 1e3, gbps=(patches.nbytes + frame.nbytes) / patchify_s / 1e9
    )
    yield Result("tile_diff 1920x1088, one thread", diff_s * 1e3, gbps=2 * frame.nbytes / diff_s / 1e9)


SUITES = {
    "peaks": peaks, "linear": linear, "attention": attention, "vision_attention": vision_attention, "small": small,
}  # fmt: skip


def main() -> None:
    """Print a table and a JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--build", type=Path, help="CMake build folder of the library; else the installed one")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--only", choices=list(SUITES), action="append")
    options = parser.parse_args()
    bench = Bench(KernelLibrary(options.build), options.threads, options.repeats)
    results = []
    print(f"{'':52} {'ms':>9} {'GOP/s':>7} {'GB/s':>6} {'vs MatMulNBits':>15}")
    for name in options.only or SUITES:
        for r in SUITES[name](bench):
            ratio = f"{r.matmulnbits_ms / r.ms:.2f}x" if r.matmulnbits_ms else ""
            print(f"{r.what:52} {r.ms:9.3f} {r.gops:7.0f} {r.gbps:6.1f} {ratio:>15}", flush=True)
            results.append(asdict(r))
    print(json.dumps({"threads": options.threads, "results": results}))


if __name__ == "__main__":
    main()
