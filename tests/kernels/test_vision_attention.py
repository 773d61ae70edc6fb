"""edge.VisionAttention against its numpy definition, through a real graph."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_kernels.reference.vision_attention import vision_attention

RunOp = Callable[..., list[NDArray[np.float32]]]
# Relative to the largest output. Queries and keys are int8 in the definition too, so what is left is bfloat16's eight
# bits in probabilities and values (avx512_bf16), or ties of the int8 rounding (the others).
TOLERANCE = {"avx512_bf16": 8e-3}


def random_inputs(rng: np.random.Generator, patches: int, heads: int, head_dim: int) -> dict[str, NDArray[np.float32]]:
    angles = rng.uniform(0, 6.28, (patches, head_dim // 2)).astype(np.float32)
    qkv = rng.standard_normal((patches, 3 * heads * head_dim), np.float32) * 2
    return {"qkv": qkv, "rope_cos": np.cos(angles), "rope_sin": np.sin(angles)}


@pytest.mark.parametrize("head_dim", [8, 24, 64, 72, 128])
@pytest.mark.parametrize(("patches", "heads"), [(1, 1), (5, 3), (64, 2), (65, 1), (200, 2), (290, 1)])
def test_matches_reference(
    run_op: RunOp, rng: np.random.Generator, isa: str, patches: int, heads: int, head_dim: int
) -> None:
    inputs = random_inputs(rng, patches, heads, head_dim)
    (y,) = run_op("VisionAttention", inputs, isa=isa, num_heads=heads)
    wanted = vision_attention(inputs["qkv"], inputs["rope_cos"], inputs["rope_sin"], heads)
    assert y.shape == wanted.shape
    assert np.abs(y - wanted).max() <= TOLERANCE.get(isa, 2e-3) * np.abs(wanted).max()


def test_same_bits_on_any_number_of_threads(run_op: RunOp, rng: np.random.Generator, isa: str) -> None:
    inputs = random_inputs(rng, 130, 2, 64)
    one, two = (run_op("VisionAttention", inputs, isa=isa, threads=n, num_heads=2)[0] for n in (1, 2))
    assert np.array_equal(one, two)


@pytest.mark.parametrize("patches", [150, 400])
def test_attends_to_the_largest_score(run_op: RunOp, isa: str, patches: int) -> None:
    """Scores so far apart that the answer is one patch's value: the running maximum must be kept across key tiles."""
    head_dim = 16
    qkv = np.zeros((patches, 3, head_dim), np.float32)
    qkv[:, 0] = 20.0
    qkv[:, 1] = np.linspace(-patches / 8, patches / 8, patches)[:, None]
    qkv[:, 2] = 1.0
    qkv[-1, 2] = 2.0
    ones, zeros = np.ones((patches, head_dim // 2), np.float32), np.zeros((patches, head_dim // 2), np.float32)
    inputs = {"qkv": qkv.reshape(patches, -1), "rope_cos": ones, "rope_sin": zeros}
    (y,) = run_op("VisionAttention", inputs, isa=isa, num_heads=1)
    np.testing.assert_allclose(y, 2.0, rtol=1e-5)


@pytest.mark.parametrize("step", [5.0, 60.0, 85.0, 95.0, 130.0, 1000.0])
def test_later_keys_may_score_far_above_the_first(run_op: RunOp, isa: str, step: float) -> None:
    """In powers of two: whole tiles in the middle measure against an old maximum, as long as floats can hold it."""
    patches, head_dim = 500, 16
    qkv = np.zeros((patches, 3, head_dim), np.float32)
    qkv[::2, 0] = 1.0  # the other queries see all keys alike
    qkv[200:, 1] = step / (head_dim**0.5 * np.log2(np.e))  # score over sqrt(head_dim) is step * ln 2
    qkv[:, 2] = np.where(np.arange(patches) < 200, 0.0, 1.0)[:, None]
    ones, zeros = np.ones((patches, head_dim // 2), np.float32), np.zeros((patches, head_dim // 2), np.float32)
    inputs = {"qkv": qkv.reshape(patches, -1), "rope_cos": ones, "rope_sin": zeros}
    (y,) = run_op("VisionAttention", inputs, isa=isa, num_heads=1)
    np.testing.assert_allclose(y[1::2], 300 / 500, rtol=1e-5)
    np.testing.assert_allclose(y[::2], 300 / (300 + 200 * 2.0**-step), rtol=1e-3)


@pytest.mark.parametrize(("begin", "end"), [(0, 1), (0, 290), (7, 8), (5, 150), (64, 290), (289, 290), (40, 40)])
def test_some_queries_get_the_bits_that_all_get(
    run_op: RunOp, rng: np.random.Generator, isa: str, begin: int, end: int
) -> None:
    inputs = random_inputs(rng, 290, 2, 24)
    (whole,) = run_op("VisionAttention", inputs, isa=isa, num_heads=2)
    (some,) = run_op(
        "VisionAttention", {**inputs, "query_rows": np.array([begin, end], np.int64)}, isa=isa, num_heads=2
    )
    assert np.array_equal(some, whole[begin:end])
    wanted = vision_attention(inputs["qkv"], inputs["rope_cos"], inputs["rope_sin"], 2, (begin, end))
    assert some.shape == wanted.shape
    np.testing.assert_allclose(some, wanted, atol=TOLERANCE.get(isa, 2e-3) * np.abs(whole).max())


@pytest.mark.parametrize("rows", [(-1, 3), (3, 2), (0, 7), (7, 7)])
def test_refuses_queries_outside_the_patches(run_op: RunOp, rng: np.random.Generator, rows: tuple[int, int]) -> None:
    inputs = {**random_inputs(rng, 6, 2, 16), "query_rows": np.array(rows, np.int64)}
    with pytest.raises(Exception, match=rf"'query_rows' is \[{rows[0]}, {rows[1]}\], wanted a range within 6 patches"):
        run_op("VisionAttention", inputs, num_heads=2)


def test_refuses_wrong_inputs(run_op: RunOp, rng: np.random.Generator) -> None:
    inputs = random_inputs(rng, 6, 2, 16)
    with pytest.raises(
        Exception, match=r"edge.VisionAttention .*input 'qkv' is float32 \[6, 96\], wanted float32 \[6, 144\]"
    ):
        run_op("VisionAttention", inputs, num_heads=3)
    with pytest.raises(Exception, match="head_dim is 6, wanted a multiple of 8 of at most 256"):
        run_op("VisionAttention", random_inputs(rng, 6, 2, 6), num_heads=2)
