"""The hand-made ONNX file is one that ONNX Runtime loads, and it multiplies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_runtime.bench.matmul_graph import matmul_graph
from edge_runtime.model.cancellation import CancelToken
from edge_runtime.model.session import Graph, SessionSettings


@pytest.mark.parametrize(
    ("operator", "left", "right"), [("MatMul", "float32", "float32"), ("MatMulInteger", "uint8", "int8")]
)
@pytest.mark.parametrize("sizes", [(1, 1, 1), (3, 130, 5), (17, 64, 200)])
def test_product_is_that_of_numpy(
    operator: str, left: str, right: str, sizes: tuple[int, int, int], tmp_path: Path
) -> None:
    rows, inner, columns = sizes
    rng = np.random.default_rng(0)
    a = rng.integers(0, 200, (rows, inner)).astype(left)
    b = rng.integers(-100, 100, (inner, columns)).astype(right)
    path = tmp_path / "matmul.onnx"
    path.write_bytes(matmul_graph(operator, a.dtype, b))
    product = Graph(path, SessionSettings(num_threads=1)).run({"a": a}, CancelToken())["y"]
    np.testing.assert_array_equal(product, a.astype(np.int64) @ b.astype(np.int64))
