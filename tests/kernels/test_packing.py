"""Packing of quantized weights into the kernels' layout, and back."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_kernels.packing import concatenate, dequantize, pack, pack_gate_up, unpack


def random_matrix(
    rng: np.random.Generator, out: int, blocks: int, bits: int, block: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    weight = rng.integers(0, 256, (out, blocks, block * bits // 8), dtype=np.uint8)
    return weight, rng.uniform(0.001, 0.1, (out, blocks)).astype(np.float16).astype(np.float32)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("block", [32, 64, 128])
@pytest.mark.parametrize(("out", "blocks"), [(1, 1), (16, 2), (37, 3)])
def test_round_trip(rng: np.random.Generator, bits: int, block: int, out: int, blocks: int) -> None:
    weight, scales = random_matrix(rng, out, blocks, bits, block)
    packed = pack(weight, scales, bits)
    assert packed.weight.shape == (-(-out // 16), blocks * block * bits // 32, 64)
    assert packed.scales.shape == (-(-out // 16), blocks, 16)
    got_weight, got_scales = unpack(packed, bits, out)
    assert np.array_equal(got_weight, weight)
    assert np.array_equal(got_scales, scales)


def test_int4_layout(rng: np.random.Generator) -> None:
    """Channel 17, inputs 8 to 15: the second group's second step, bytes 4 to 7, low nibbles first."""
    weight, scales = random_matrix(rng, 20, 2, 4, 32)
    values = np.stack([weight & 15, weight >> 4], axis=-1).reshape(20, 64)
    packed = pack(weight, scales, 4)
    got = packed.weight[1, 1, 4:8]
    assert np.array_equal(got & 15, values[17, 8:12])
    assert np.array_equal(got >> 4, values[17, 12:16])
    assert packed.scales[1, 1, 1] == scales[17, 1]


def test_int8_layout(rng: np.random.Generator) -> None:
    weight, scales = random_matrix(rng, 20, 2, 8, 32)
    packed = pack(weight, scales, 8)
    assert np.array_equal(packed.weight[1, 9, 4:8], weight.reshape(20, 64)[17, 36:40])


def test_padding_channels_weigh_nothing(rng: np.random.Generator) -> None:
    packed = pack(*random_matrix(rng, 3, 1, 4, 32), 4)
    assert not dequantize(packed, 4, 16)[3:].any()


def test_joined_matrices(rng: np.random.Generator) -> None:
    (a, a_scales), (b, b_scales) = (random_matrix(rng, 32, 2, 4, 32) for _ in range(2))
    both = concatenate([(a, a_scales), (b, b_scales)], 4)
    assert np.array_equal(unpack(both, 4, 64)[0], np.concatenate([a, b]))
    pair = pack_gate_up(pack(a, a_scales, 4), pack(b, b_scales, 4))
    assert np.array_equal(pair.weight[0::2], both.weight[:2])
    assert np.array_equal(pair.weight[1::2], both.weight[2:])


def test_refuses(rng: np.random.Generator) -> None:
    weight, scales = random_matrix(rng, 4, 2, 4, 32)
    with pytest.raises(ValueError, match="bits is 3"):
        pack(weight, scales, 3)
    with pytest.raises(ValueError, match=r"with scales \(4, 1\)"):
        pack(weight, scales[:, :1], 4)
    with pytest.raises(ValueError, match="blocks of 16, wanted 32, 64 or 128"):
        pack(weight[:, :, :8], scales, 4)
    with pytest.raises(ValueError, match="scales go up to 70000"):
        pack(weight, np.full((4, 2), 70000.0), 4)
    with pytest.raises(ValueError, match="wanted the same shape"):
        pack_gate_up(pack(weight, scales, 4), pack(weight[:, :1], scales[:, :1], 4))
