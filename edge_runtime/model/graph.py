"""ONNX Runtime behind three names: `GraphSettings`, `Graph`, `Binding`. The one runtime file that imports it.

Knows nothing of what the graphs compute. Weights are mapped from the graph's external data file, not read.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

# Before the import: its wheels of late 2026 write an identity into the home folder and look up a host at Microsoft from
# any process that imports them (decision 45). Whoever wants that sets the variable to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from edge_kernels.library import KernelLibrary
from edge_runtime.errors import BundleError, Cancelled, InternalError
from edge_runtime.model.cancellation import CancelToken

ExecutionProvider = Literal["cpu"]
Array = NDArray[Any]

_log = logging.getLogger(__name__)

_PROVIDERS: Mapping[ExecutionProvider, str] = {"cpu": "CPUExecutionProvider"}
_ERRORS = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoSuchFile,
    ort_errors.NoModel,
    ort_errors.NotImplemented,
    ort_errors.EPFail,
    ort_errors.RuntimeException,
    RuntimeError,
    ValueError,
)


@dataclass(frozen=True, slots=True)
class GraphSettings:
    """How a graph is loaded and run."""

    num_threads: int
    execution_provider: ExecutionProvider = "cpu"
    spin: bool = True
    """Idle worker threads wait by spinning: faster small operators, at the price of a busy core between them."""
    kernels: KernelLibrary | None = None
    """Our own operators: bundles of flavour "edge" need them, others do not."""
    isa: str = "auto"
    """The instruction set those run on: a name from `KernelLibrary.instruction_sets`, or "auto" for the best one."""


def describe_onnxruntime() -> str:
    """Version and execution providers of the installed onnxruntime, for people."""
    return f"{ort.__version__}, with {', '.join(ort.get_available_providers())}"


def choose_execution_provider(preferred: Sequence[str]) -> ExecutionProvider:
    """The first provider of a profile's list that this release runs, "cpu" so far; logs which, and each passed over.

    Raises `BundleError` where none is.
    """
    for wanted in preferred:
        for name in _PROVIDERS:
            if name == wanted:
                _log.info("graphs run on the execution provider %r", name)
                return name
        _log.warning("execution provider %r is passed over: this release does not run it yet", wanted)
    raise BundleError(f"no execution provider of {', '.join(preferred)} is supported; add 'cpu' to the device profile")


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One declared input or output of a graph; unknown dimensions are None."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


class Graph:
    """A loaded graph. Runs are serial: one thread at a time."""

    def __init__(self, path: Path, settings: GraphSettings) -> None:
        """Load `path`. Raises `BundleError` if ONNX Runtime cannot."""
        provider = _PROVIDERS[settings.execution_provider]
        if provider not in ort.get_available_providers():
            raise BundleError(
                f"this onnxruntime has no {provider} (it has {', '.join(ort.get_available_providers())}); "
                "install one that has, or choose execution_provider 'cpu'"
            )
        try:
            self.loaded = ort.InferenceSession(str(path), _load_options(settings), providers=[provider])
        except Exception as error:  # whatever it raises: the file is at fault
            raise BundleError(f"{path} cannot be loaded: {error}; export the bundle again") from error
        self.name = path.name
        self.inputs = {node.name: _spec(node) for node in self.loaded.get_inputs()}
        self.outputs = {node.name: _spec(node) for node in self.loaded.get_outputs()}

    def run(
        self,
        inputs: Mapping[str, Array],
        outputs: Mapping[str, Array],
        cancel: CancelToken,
        *,
        keep_memory: bool = False,
    ) -> None:
        """Run on `inputs` and write into the contiguous arrays `outputs`. Raises as `Binding.run`."""
        self.bind(()).run(inputs, outputs, cancel, keep_memory=keep_memory)

    def bind(self, shared: Sequence[tuple[str, str | None, Array]]) -> Binding:
        """A binding in which each (input, output, array) of `shared` is one memory, updated in place by every run.

        `output` is None where an operator writes into its input.
        """
        return Binding(self, shared)

    def translated(self, error: Exception, cancel: CancelToken) -> Exception:
        """What an ONNX Runtime error during a run means to our caller."""
        if cancel.cancelled:
            return Cancelled("the request was cancelled during a graph run")
        return InternalError(f"ONNX Runtime failed in {self.name}: {error}")


class Binding:
    """Buffers bound to a graph once and reused run after run, without a copy. Keeps the arrays alive."""

    def __init__(self, graph: Graph, shared: Sequence[tuple[str, str | None, Array]]) -> None:
        self._graph = graph
        self._io = graph.loaded.io_binding()
        self._arrays = [array for _, _, array in shared]  # ONNX Runtime 1.23 keeps a pointer, but no reference
        for input_name, output_name, array in shared:
            value = ort.OrtValue.ortvalue_from_numpy(array)  # the array's own memory
            self._io.bind_ortvalue_input(input_name, value)
            if output_name is not None:
                self._io.bind_ortvalue_output(output_name, value)

    def run(
        self,
        inputs: Mapping[str, Array],
        outputs: Mapping[str, Array],
        cancel: CancelToken,
        *,
        keep_memory: bool = False,
    ) -> None:
        """Run on `inputs` and write into the contiguous arrays `outputs` and the shared ones.

        What the operators used in between goes back to the system, unless `keep_memory` says that another run follows.
        Raises `Cancelled` if `cancel` is set before or during the run; the arrays then hold anything.
        """
        contiguous = {name: np.ascontiguousarray(array) for name, array in inputs.items()}  # must outlive the run
        for name, array in contiguous.items():
            self._io.bind_cpu_input(name, array)
        for name, array in outputs.items():
            self._io.bind_ortvalue_output(name, ort.OrtValue.ortvalue_from_numpy(array))
        options = _run_options(keep_memory=keep_memory)
        with cancel.attach(_terminate(options)):
            try:
                self._graph.loaded.run_with_iobinding(self._io, options)
            except _ERRORS as error:
                raise self._graph.translated(error, cancel) from error


def _run_options(*, keep_memory: bool) -> ort.RunOptions:
    """Options of one run: unless memory is kept, what its operators used in the arena goes back when it ends."""
    options = ort.RunOptions()
    if not keep_memory:
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options


def _terminate(options: ort.RunOptions) -> Callable[[], None]:
    """A hook that makes ONNX Runtime stop the run of `options` before its next operator."""

    def stop() -> None:
        options.terminate = True

    return stop


def _spec(node: ort.NodeArg) -> TensorSpec:
    return TensorSpec(node.name, node.type, tuple(size if isinstance(size, int) else None for size in node.shape))


def _load_options(settings: GraphSettings) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = settings.num_threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.enable_mem_pattern = False  # a plan per input shape; ours differ from run to run
    options.enable_cpu_mem_arena = True  # within a run: fresh pages for every tensor cost a tenth of a vision run
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if settings.spin else "0")
    if settings.kernels is not None:
        settings.kernels.use_in(options, settings.isa)
    return options
