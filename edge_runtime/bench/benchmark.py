"""Measures a bundle the way it is used: through the engine, one chat at a time. Read `run_benchmark` first."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter

from edge_kernels.library import KernelError, KernelLibrary
from edge_runtime.bench.costs import decode_bytes, prefill_ops, vision_ops
from edge_runtime.bench.peaks import MachinePeaks, measure_peaks
from edge_runtime.bench.questions import DECODE_TOKENS, ImageQuestion, TextQuestion, Workload
from edge_runtime.devices.memory import MemoryPlan
from edge_runtime.devices.select import ResolvedProfile
from edge_runtime.engine.engine import Engine
from edge_runtime.engine.events import Failed, Finished, Timings
from edge_runtime.engine.load import load_engine
from edge_runtime.engine.request import GenerationOptions, GenerationRequest
from edge_runtime.errors import ContextOverflow, InternalError
from edge_runtime.model.bundle import Bundle
from edge_runtime.model.conversation import Message

PEAK_REPEATS = 7

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Measurement:
    """One row of the result."""

    name: str
    unit: str
    value: float
    """Median of `samples`."""
    samples: tuple[float, ...]
    of_peak: float | None = None
    """The rate it takes at least, over the machine's own: bytes read for decode, operations for prefill and vision.

    None for what has no such rate, and where the machine's is not known.
    """
    peak: str | None = None
    """Which peak that is."""


@dataclass(frozen=True, slots=True)
class BenchmarkReport:
    """Everything measured."""

    bundle: str
    flavour: str
    profile: str
    peaks: MachinePeaks | None
    """None without the kernel library, which measures them."""
    measurements: tuple[Measurement, ...]
    not_run: tuple[str, ...] = ()
    """What could not be measured, and why."""


@dataclass(slots=True)
class _Samples:
    """Values by (name, unit), in the order in which they first came up; and the work behind a rate, by name."""

    values: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    work: dict[str, tuple[str, float]] = field(default_factory=dict)
    """Name -> (which peak, bytes or operations per unit of the value)."""

    def add(self, name: str, unit: str, value: float) -> None:
        self.values.setdefault((name, unit), []).append(value)


def run_benchmark(
    bundle: Bundle, profile: ResolvedProfile, plan: MemoryPlan, workload: Workload, say: Say
) -> BenchmarkReport:
    """Load, ask every question, note the memory, then measure the machine. Raises `EdgeError`."""
    samples, not_run = _Samples(), list[str]()
    seeds = range(1, workload.repeats + 1)
    say("loading")
    engine = _load(bundle, profile, plan, workload.repeats, samples)
    _ask(engine, workload.texts[0].messages(0), DECODE_TOKENS)  # warm-up: first runs allocate
    for text in workload.texts:
        with _noting_overflow(text.name, not_run, say):
            for seed in seeds:
                decodes = text.prompt_tokens in workload.decoded_after
                timings = _ask(engine, text.messages(seed), DECODE_TOKENS if decodes else 1)
                _note_prefill(bundle, text, timings, samples)
                if decodes:
                    _note_decode(bundle, plan, text, timings, samples)
    for image in _images_that_fit(bundle, plan, workload, not_run):
        with _noting_overflow(image.name, not_run, say):
            for seed in seeds:
                _note_image(bundle, image, _ask(engine, image.messages(seed), 1), samples)
    samples.add("peak memory", "bytes", _peak_memory_bytes())
    del engine
    say("the machine itself")
    peaks = _peaks(profile.threads, not_run)
    rows = tuple(_measurement(name, unit, samples, peaks) for name, unit in samples.values)
    manifest = bundle.manifest
    return BenchmarkReport(manifest.name, manifest.flavour, profile.name, peaks, rows, tuple(not_run))


@contextmanager
def _noting_overflow(question: str, not_run: list[str], say: Say) -> Iterator[None]:
    """Say what comes; leave it, with a note, if the planned context is too short for it."""
    say(question)
    try:
        yield
    except ContextOverflow as error:
        not_run.append(f"{question}: {error}")


def _images_that_fit(bundle: Bundle, plan: MemoryPlan, workload: Workload, not_run: list[str]) -> list[ImageQuestion]:
    """The images of `workload` that neither plan nor bundle shrinks; a note about each of the others."""
    fitting, manifest = [], bundle.manifest
    for image in workload.images:
        if image.pixels(manifest) > plan.max_pixels:
            not_run.append(f"{image.name}: the memory plan has room for {plan.max_pixels:,} pixels only")
        elif image.shrunk_by(manifest):
            not_run.append(f"{image.name}: this bundle takes {manifest.image_processor.max_pixels:,} pixels at most")
        else:
            fitting.append(image)
    return fitting


def _peaks(num_threads: int, not_run: list[str]) -> MachinePeaks | None:
    """The machine's own rates; None, with a note, where the kernel library is missing."""
    try:
        return measure_peaks(KernelLibrary(), num_threads, PEAK_REPEATS)
    except KernelError as error:
        not_run.append(f"shares of the machine's peaks: {error}")
        return None


def _load(bundle: Bundle, profile: ResolvedProfile, plan: MemoryPlan, repeats: int, samples: _Samples) -> Engine:
    engine = None
    for _ in range(repeats):
        engine = None  # the one before is let go first, so that memory holds one model at a time
        started = perf_counter()
        engine = load_engine(bundle, profile, plan)
        samples.add("load", "s", perf_counter() - started)
    assert engine is not None
    return engine


def _note_prefill(bundle: Bundle, question: TextQuestion, timings: Timings, samples: _Samples) -> None:
    name = f"prefill of {question.prompt_tokens:,} tokens"
    samples.add(name, "tok/s", timings.prompt_tokens / timings.prefill_ms * 1e3)
    samples.work[name] = ("int8", prefill_ops(bundle.manifest, timings.prompt_tokens) / timings.prompt_tokens)


def _note_decode(bundle: Bundle, plan: MemoryPlan, question: TextQuestion, timings: Timings, samples: _Samples) -> None:
    name = f"decode at {question.prompt_tokens:,} tokens"
    samples.add(name, "tok/s", (timings.output_tokens - 1) / timings.decode_ms * 1e3)
    context = timings.prompt_tokens + timings.output_tokens // 2
    samples.work[name] = ("read", decode_bytes(bundle.manifest, context, plan.kv_bytes / plan.kv_tokens))


def _note_image(bundle: Bundle, question: ImageQuestion, timings: Timings, samples: _Samples) -> None:
    size = f"{question.width}x{question.height}"
    samples.add(f"vision {size}", "s", timings.vision_ms / 1e3)
    samples.work[f"vision {size}"] = ("int8", vision_ops(bundle.manifest, timings.image_tokens))
    samples.add(f"first token, {size} + question", "s", timings.first_token_ms / 1e3)


def _ask(engine: Engine, messages: tuple[Message, ...], max_tokens: int) -> Timings:
    options = GenerationOptions(max_tokens=max_tokens, ignore_eos=True, speculation=False)  # a run gives one token
    for event in engine.generate(GenerationRequest("benchmark", messages, options)):
        if isinstance(event, Failed):
            raise event.error
        if isinstance(event, Finished):
            return event.timings
    raise InternalError("a request ended without an end")


def _measurement(name: str, unit: str, samples: _Samples, peaks: MachinePeaks | None) -> Measurement:
    values = samples.values[name, unit]
    value = median(values)
    if name not in samples.work or peaks is None:
        return Measurement(name, unit, value, tuple(values))
    peak, work = samples.work[name]
    rate = work / value if unit == "s" else work * value
    best = {"int8": peaks.int8_ops_per_s, "read": peaks.read_bytes_per_s}[peak]
    return Measurement(name, unit, value, tuple(values), rate / best, peak)


def _peak_memory_bytes() -> float:
    """High-water mark of this process's resident memory."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else peak * 1024)
