"""edge.RMSNorm and edge.LayerNorm against their numpy definitions, through a real graph."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_kernels.reference.norm import layer_norm, rms_norm

RunOp = Callable[..., list[NDArray[np.float32]]]
SHAPES = [(1, 1), (1, 2048), (3, 129), (7, 16), (40, 1000)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("with_residual", [False, True])
def test_rms_norm(
    run_op: RunOp, rng: np.random.Generator, isa: str, shape: tuple[int, int], with_residual: bool
) -> None:
    x, residual = rng.standard_normal((2, *shape), np.float32)
    weight = rng.standard_normal(shape[1], np.float32)
    inputs = {"x": x, "weight": weight, "residual": residual if with_residual else None}
    got = run_op("RMSNorm", inputs, isa=isa, outputs=2 if with_residual else 1, epsilon=1e-6)
    wanted = rms_norm(x, weight, 1e-6, residual if with_residual else None)
    for a, b in zip(got, wanted, strict=False):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("with_residual", [False, True])
def test_layer_norm(
    run_op: RunOp, rng: np.random.Generator, isa: str, shape: tuple[int, int], with_residual: bool
) -> None:
    x, residual = rng.standard_normal((2, *shape), np.float32) + 3
    weight, bias = rng.standard_normal((2, shape[1]), np.float32)
    inputs = {"x": x, "weight": weight, "bias": bias, "residual": residual if with_residual else None}
    got = run_op("LayerNorm", inputs, isa=isa, outputs=2 if with_residual else 1, epsilon=1e-6)
    wanted = layer_norm(x, weight, bias, 1e-6, residual if with_residual else None)
    for a, b in zip(got, wanted, strict=False):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


def test_refuses_wrong_inputs(run_op: RunOp) -> None:
    x, weight = np.ones((2, 5), np.float32), np.ones(5, np.float32)
    with pytest.raises(
        Exception, match=r"edge.RMSNorm '/RMSNorm': input 'weight' is float32 \[4\], wanted float32 \[5\]"
    ):
        run_op("RMSNorm", {"x": x, "weight": weight[:4].copy()}, epsilon=1e-6)
    with pytest.raises(Exception, match="output 'sum' is used, but there is no input 'residual' to add"):
        run_op("RMSNorm", {"x": x, "weight": weight}, outputs=2, epsilon=1e-6)
    with pytest.raises(Exception, match=r"edge.LayerNorm .*input 'bias' is float32 \[6\], wanted float32 \[5\]"):
        run_op("LayerNorm", {"x": x, "weight": weight, "bias": np.ones(6, np.float32)}, epsilon=1e-6)
