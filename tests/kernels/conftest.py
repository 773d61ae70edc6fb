"""Runs single ops of the kernel library (fixture `kernel_library` of tests/conftest.py) through real graphs."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from edge_kernels.library import KernelLibrary
from tests.needs import skip_without

ISAS = {
    "x86_64": ["scalar", "avx2", "avx2_vnni", "avx512_vnni", "avx512_bf16"],
    "aarch64": ["scalar", "neon_dotprod", "neon_i8mm"],
}.get(platform.machine(), ["scalar"])

Array = NDArray[Any]
RunOp = Callable[..., list[Array]]


@pytest.fixture(scope="session")
def library(kernel_library: KernelLibrary) -> KernelLibrary:
    """The kernels, under the name they have here."""
    return kernel_library


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest, library: KernelLibrary) -> str:
    """Every instruction set of this build that this processor has."""
    known = {isa.name: isa for isa in library.instruction_sets()}
    if not known[request.param].supported:
        skip_without(f"instruction set {request.param}", f"a processor with {known[request.param].requirements}")
    return str(request.param)


def model(op: str, inputs: Mapping[str, Array | None], num_outputs: int, attributes: Mapping[str, Any]) -> bytes:
    """A graph of one node whose inputs are all graph inputs; None leaves an optional one out."""
    given = {name: value for name, value in inputs.items() if value is not None}
    node = onnx.helper.make_node(
        op,
        [name if value is not None else "" for name, value in inputs.items()],
        [f"out{i}" for i in range(num_outputs)],
        name=f"/{op}",
        domain="edge",
        **attributes,
    )
    infos = [
        onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(value.dtype), [None] * value.ndim)
        for name, value in given.items()
    ]
    outputs = [onnx.helper.make_tensor_value_info(f"out{i}", onnx.TensorProto.FLOAT, None) for i in range(num_outputs)]
    graph = onnx.helper.make_graph([node], "op", infos, outputs)
    opsets = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("edge", 1)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


@pytest.fixture
def run_op(library: KernelLibrary) -> RunOp:
    """Runs one op on named inputs in a graph of its own, the op's attributes as keywords; returns its outputs."""

    def run(
        op: str,
        inputs: Mapping[str, Array | None],
        *,
        isa: str = "auto",
        threads: int = 2,
        outputs: int = 1,
        **attributes: Any,
    ) -> list[Array]:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4  # a refused input is also logged; the tests read the exception
        library.use_in(options, isa)
        loaded = onnxruntime.InferenceSession(model(op, inputs, outputs, attributes), options)
        # Bound, not fed: Attention writes into its caches, which must be the caller's own memory.
        binding = loaded.io_binding()
        for name, value in inputs.items():
            if value is not None:
                assert value.flags.c_contiguous
                binding.bind_input(name, "cpu", 0, value.dtype, value.shape, value.ctypes.data)
        for i in range(outputs):
            binding.bind_output(f"out{i}", "cpu")
        loaded.run_with_iobinding(binding)
        return binding.copy_outputs_to_cpu()

    return run


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20)
