from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_export.quantize import RoundTrip, dequantize, quantize
from tests.export.small_model import random_array

CASES = [(bits, block) for bits in (4, 8) for block in (32, 64, 128)]


def absmax_error(weight: np.ndarray, bits: int, block: int) -> float:
    """Squared error of the textbook scale, max |w| / (2^(bits-1) - 1)."""
    high = 2 ** (bits - 1) - 1
    blocks = weight.astype(np.float64).reshape(-1, block)
    scale = np.abs(blocks).max(axis=1, keepdims=True) / high
    return float(((blocks - np.clip(np.rint(blocks / scale), -high - 1, high) * scale) ** 2).sum())


@pytest.mark.parametrize(("bits", "block"), CASES)
def test_layout_is_that_of_matmulnbits(bits: int, block: int) -> None:
    blocks, _ = quantize(random_array(5, 256), bits, block)
    assert blocks.values.dtype == np.uint8
    assert blocks.values.shape == (5, 256 // block, block * bits // 8)
    assert blocks.scales.dtype == np.float32
    assert blocks.scales.shape == (5, 256 // block)


@pytest.mark.parametrize(("bits", "block"), CASES)
@pytest.mark.parametrize("columns", [1, 31, 128, 151, 4304])
def test_report_is_the_error_of_the_twin(bits: int, block: int, columns: int) -> None:
    weight = random_array(37, columns)
    blocks, report = quantize(weight, bits, block)
    restored = dequantize(blocks, bits, columns)
    assert restored.shape == weight.shape
    assert report.max_abs == pytest.approx(np.abs(weight - restored).max(), rel=1e-5)
    expected = np.linalg.norm(weight - restored) / np.linalg.norm(weight)
    assert report.relative_rms == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(("bits", "bound"), [(4, 0.11), (8, 0.007)])
@pytest.mark.parametrize("block", [32, 64, 128])
def test_normal_weights_lose_little(bits: int, bound: float, block: int) -> None:
    assert quantize(random_array(64, 512), bits, block)[1].relative_rms < bound


@pytest.mark.parametrize(("bits", "block"), CASES)
def test_searched_scales_are_never_worse_than_absmax(bits: int, block: int) -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        weight = rng.standard_t(df=2 + seed % 5, size=(1, block)).astype(np.float32)
        _, report = quantize(weight, bits, block)
        assert report.squared_error <= absmax_error(weight, bits, block) * (1 + 1e-5)


def test_search_beats_absmax_clearly_at_four_bits() -> None:
    weight = random_array(64, 1024)
    assert quantize(weight, 4, 32)[1].squared_error < 0.8 * absmax_error(weight, 4, 32)


@pytest.mark.parametrize(("bits", "block"), CASES)
@pytest.mark.parametrize("reach", ["low", "high"])
def test_representable_weights_are_kept_exactly(bits: int, block: int, reach: str) -> None:
    half = 2 ** (bits - 1)
    integers = np.random.default_rng(3).integers(1 - half, half, size=(9, block))
    integers[:, 5] = -half if reach == "low" else half - 1
    weight = (integers * 0.125).astype(np.float32)
    blocks, report = quantize(weight, bits, block)
    assert np.array_equal(dequantize(blocks, bits, block), weight)
    assert report.max_abs == 0


@pytest.mark.parametrize("bits", [4, 8])
def test_zero_and_vanishing_blocks(bits: int) -> None:
    weight = np.zeros((3, 64), dtype=np.float32)
    weight[1, 7] = 1e-42  # denormal: the inverse of its scale would overflow
    blocks, report = quantize(weight, bits, 32)
    assert np.isfinite(blocks.scales).all()
    assert np.abs(dequantize(blocks, bits, 64)).max() <= 1e-41
    assert report.relative_rms <= 1


def test_first_of_two_int4_is_the_low_half() -> None:
    weight = np.zeros((1, 32), dtype=np.float32)
    weight[0, 0], weight[0, 1] = -8, 1
    blocks, _ = quantize(weight, 4, 32)
    assert blocks.values[0, 0, 0] == (0 | 9 << 4)
    assert blocks.values[0, 0, 1] == (8 | 8 << 4)


def test_padding_of_a_short_last_block_is_the_zero_point() -> None:
    blocks, _ = quantize(random_array(2, 40), 8, 32)
    assert blocks.values.shape == (2, 2, 32)
    assert (blocks.values[:, 1, 8:] == 128).all()


def test_a_matrix_of_many_pieces_equals_its_rows_one_by_one() -> None:
    weight = random_array(700, 256)  # more than CHUNK_VALUES, and no multiple of it
    whole, _ = quantize(weight, 4, 32)
    for row in (0, 255, 256, 511, 512, 699):
        alone, _ = quantize(weight[row : row + 1], 4, 32)
        assert np.array_equal(alone.values[0], whole.values[row])
        assert np.array_equal(alone.scales[0], whole.scales[row])


@given(st.integers(1, 6), st.integers(1, 200), st.sampled_from([4, 8]), st.sampled_from([32, 64]), st.floats(1e-6, 1e6))
@settings(max_examples=60, deadline=None)
def test_every_value_is_within_its_blocks_reach(rows: int, columns: int, bits: int, block: int, size: float) -> None:
    weight = random_array(rows, columns, seed=columns) * np.float32(size)
    blocks, _ = quantize(weight, bits, block)
    restored = dequantize(blocks, bits, columns)
    assert np.abs(restored - weight).max() <= np.abs(weight).max() * (0.3 if bits == 4 else 0.02)


def test_reports_add_up() -> None:
    total = RoundTrip(1.0, 4.0, 0.5) + RoundTrip(3.0, 12.0, 0.25)
    assert (total.relative_rms, total.max_abs) == (0.5, 0.5)
    assert RoundTrip().relative_rms == 0
