"""edge.Linear against its numpy definition, through a real graph."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_kernels.packing import PackedWeight, pack, pack_gate_up
from edge_kernels.reference.linear import LinearSpec, linear

Rng = np.random.Generator
TOLERANCE = 2e-5  # of the largest output: float32 sums over blocks, and the activation functions


def random_weight(rng: Rng, out: int, features: int, bits: int, block: int) -> PackedWeight:
    blocks = -(-features // block)
    stored = rng.integers(0, 256, (out, blocks, block * bits // 8), dtype=np.uint8)
    return pack(stored, rng.uniform(0.001, 0.02, (out, blocks)).astype(np.float16), bits)


def feeds(x: NDArray[np.float32], weight: PackedWeight, **more: NDArray[np.float32] | None) -> dict[str, object]:
    return {"x": x, "weight": weight.weight, "scales": weight.scales, "bias": None, "residual": None, **more}


def close(got: NDArray[np.float32], wanted: NDArray[np.float32]) -> None:
    assert got.shape == wanted.shape
    assert np.abs(got - wanted).max() <= TOLERANCE * np.abs(wanted).max()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("block", [32, 64, 128])
@pytest.mark.parametrize(("rows", "out", "features"), [(1, 16, 128), (2, 40, 256), (7, 33, 100), (13, 100, 300)])
def test_matches_reference(
    run_op: Callable[..., list[NDArray[np.float32]]],
    rng: Rng,
    isa: str,
    bits: int,
    block: int,
    rows: int,
    out: int,
    features: int,
) -> None:
    weight = random_weight(rng, out, features, bits, block)
    x = rng.standard_normal((rows, features), np.float32)
    attributes = {"bits": bits, "block_size": block, "out_features": out}
    (y,) = run_op("Linear", feeds(x, weight), isa=isa, activation="none", **attributes)
    close(y, linear(x, weight, LinearSpec(bits, block, out)))


@pytest.mark.parametrize("activation", ["none", "gelu", "gelu_tanh", "silu_mul"])
@pytest.mark.parametrize("out", [16, 37, 64])
def test_epilogues(
    run_op: Callable[..., list[NDArray[np.float32]]], rng: Rng, isa: str, activation: str, out: int
) -> None:
    weight = random_weight(rng, out, 64, 4, 32)
    if activation == "silu_mul":
        weight = pack_gate_up(weight, random_weight(rng, out, 64, 4, 32))
    x = rng.standard_normal((5, 64), np.float32) * 10  # far into both tails of the activations
    bias = None if activation == "silu_mul" else rng.standard_normal(out, np.float32)
    residual = rng.standard_normal((5, out), np.float32)
    (y,) = run_op(
        "Linear", feeds(x, weight, bias=bias, residual=residual), isa=isa,
        activation=activation, bits=4, block_size=32, out_features=out,
    )  # fmt: skip
    close(y, linear(x, weight, LinearSpec(4, 32, out, activation), bias, residual))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("activation", ["gelu", "silu_mul"])
def test_rows_do_not_depend_on_their_run(
    run_op: Callable[..., list[NDArray[np.float32]]], rng: Rng, isa: str, bits: int, activation: str
) -> None:
    """The same bits alone, in a small run, in one larger than a chunk of rows, and on one thread or two."""
    weight = random_weight(rng, 96, 160, bits, 32)
    x = rng.standard_normal((523, 160), np.float32)
    out = 48 if activation == "silu_mul" else 96
    attributes = {"isa": isa, "activation": activation, "bits": bits, "block_size": 32, "out_features": out}
    (whole,) = run_op("Linear", feeds(x, weight), **attributes)
    (one_thread,) = run_op("Linear", feeds(x, weight), threads=1, **attributes)
    assert np.array_equal(whole, one_thread)
    for first, last in [*((7, 7 + rows) for rows in range(1, 11)), (510, 523), (7, 60)]:
        (part,) = run_op("Linear", feeds(x[first:last], weight), **attributes)
        assert np.array_equal(part, whole[first:last]), (first, last)


@pytest.mark.parametrize("bits", [4, 8])
def test_scales_of_zero_and_of_any_size(
    run_op: Callable[..., list[NDArray[np.float32]]], rng: Rng, isa: str, bits: int
) -> None:
    """Weight scales of zero, the smallest and the largest; activations from 1e-6 to 1e9 and rows of exact powers."""
    stored = rng.integers(0, 256, (32, 6, 32 * bits // 8), dtype=np.uint8)
    scales = rng.choice(np.array([0, -0.0, 6e-8, -0.01, 60000], np.float16), (32, 6))
    scales[:16] = [0, 0, 0, -0.0, -0.0, -0.0]
    weight = pack(stored, scales, bits)
    x = rng.standard_normal((4, 192), np.float32) * np.array([[1e-6], [1], [1e9], [1]], np.float32)
    x[3] = 127 * np.exp2(rng.integers(-9, 9, 192)).astype(np.float32)
    (y,) = run_op("Linear", feeds(x, weight), isa=isa, activation="none", bits=bits, block_size=32, out_features=32)
    wanted = linear(x, weight, LinearSpec(bits, 32, 32))
    assert np.abs(y[:, :16]).max() < 1e-25
    for row, wanted_row in zip(y, wanted, strict=True):
        close(row, wanted_row)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_spoils_its_row_and_no_other(
    run_op: Callable[..., list[NDArray[np.float32]]], rng: Rng, isa: str, bits: int, bad: float
) -> None:
    weight = random_weight(rng, 20, 100, bits, 32)
    x = rng.standard_normal((9, 100), np.float32)
    attributes = {"isa": isa, "activation": "none", "bits": bits, "block_size": 32, "out_features": 20}
    (good,) = run_op("Linear", feeds(x, weight), **attributes)
    x[4, 50] = bad
    (y,) = run_op("Linear", feeds(x, weight), **attributes)
    assert np.isnan(y[4]).all()
    assert np.array_equal(np.delete(y, 4, axis=0), np.delete(good, 4, axis=0))
    assert np.isnan(linear(x, weight, LinearSpec(bits, 32, 20))[4]).all()


def test_zeros_and_no_rows(run_op: Callable[..., list[NDArray[np.float32]]], rng: Rng, isa: str) -> None:
    weight = random_weight(rng, 20, 32, 4, 32)
    attributes = {"isa": isa, "activation": "none", "bits": 4, "block_size": 32, "out_features": 20}
    (y,) = run_op("Linear", feeds(np.zeros((3, 32), np.float32), weight), **attributes)
    assert np.array_equal(y, np.zeros((3, 20), np.float32))
    (empty,) = run_op("Linear", feeds(np.zeros((0, 32), np.float32), weight), **attributes)
    assert empty.shape == (0, 20)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.zeros((2, 65), np.float32)}, r"input 'weight' is uint8 \[2, 8, 64\], wanted uint8 \[2, 12, 64\]"),
        (
            {"scales": np.zeros((2, 1, 16), np.float16)},
            r"input 'scales' is float16 \[2, 1, 16\], wanted float16 \[2, 2",
        ),
        ({"bias": np.zeros(31, np.float32)}, r"input 'bias' is float32 \[31\], wanted float32 \[32\]"),
        (
            {"residual": np.zeros((2, 33), np.float32)},
            r"input 'residual' is float32 \[2, 33\], wanted float32 \[2, 32\]",
        ),
        ({"x": np.zeros((2, 1, 64), np.float32)}, r"input 'x' is float32 \[2, 1, 64\], wanted float32 \[any, any\]"),
    ],
)
def test_refuses_wrong_shapes(
    run_op: Callable[..., list[NDArray[np.float32]]], rng: Rng, change: dict[str, object], message: str
) -> None:
    inputs = feeds(np.zeros((2, 64), np.float32), random_weight(rng, 32, 64, 4, 32)) | change
    with pytest.raises(Exception, match=rf"edge.Linear '/Linear': {message}"):
        run_op("Linear", inputs, activation="none", bits=4, block_size=32, out_features=32)


@pytest.mark.parametrize(
    ("attribute", "message"),
    [
        ({"bits": 5}, "attribute 'bits' is 5, wanted 4 or 8"),
        ({"block_size": 16}, "attribute 'block_size' is 16, wanted 32, 64 or 128"),
        ({"activation": "relu"}, "attribute 'activation' is 'relu', wanted none, gelu"),
        ({"out_features": 0}, "attribute 'out_features' is 0, wanted at least 1"),
    ],
)
def test_refuses_wrong_attributes(
    run_op: Callable[..., list[NDArray[np.float32]]], rng: Rng, attribute: dict[str, object], message: str
) -> None:
    inputs = feeds(np.zeros((2, 64), np.float32), random_weight(rng, 32, 64, 4, 32))
    attributes = {"activation": "none", "bits": 4, "block_size": 32, "out_features": 32, **attribute}
    with pytest.raises(Exception, match=message):
        run_op("Linear", inputs, **attributes)


def test_refuses_unknown_instruction_set(run_op: Callable[..., list[NDArray[np.float32]]], rng: Rng) -> None:
    inputs = feeds(np.zeros((2, 64), np.float32), random_weight(rng, 32, 64, 4, 32))
    with pytest.raises(Exception, match=r"instruction set 'mmx' is not one of this build: wanted auto, .*scalar"):
        run_op("Linear", inputs, isa="mmx", activation="none", bits=4, block_size=32, out_features=32)
