"""Finding the library, its instruction sets, and its plain C functions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_kernels.library import KernelError, KernelLibrary, library_path
from edge_kernels.reference.patchify import patchify
from edge_kernels.reference.tile_diff import tile_diff

SCALE = np.array([2 / 255, 1 / 255, 1 / 127], np.float32)
OFFSET = np.array([-1.0, 0.0, 0.5], np.float32)


def test_missing_library_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(KernelError, match=r"no libedge_kernels.so in .*: .* install a compiler and reinstall"):
        library_path(tmp_path)


def test_damaged_library(tmp_path: Path) -> None:
    (tmp_path / "libedge_kernels.so").write_bytes(b"not a library")
    with pytest.raises(KernelError, match="does not load"):
        KernelLibrary(tmp_path)


def test_instruction_sets(library: KernelLibrary) -> None:
    isas = library.instruction_sets()
    assert isas[-1].name == "scalar"
    assert isas[-1].supported
    assert library.chosen() == next(isa for isa in isas if isa.supported)


@pytest.mark.parametrize("num_frames", [1, 2])
@pytest.mark.parametrize(
    ("height", "width", "patch", "merge"), [(32, 32, 16, 2), (64, 96, 16, 2), (12, 30, 3, 2), (14, 21, 7, 1)]
)
def test_patchify(
    library: KernelLibrary, rng: np.random.Generator, num_frames: int, height: int, width: int, patch: int, merge: int
) -> None:
    frames = list(rng.integers(0, 256, (num_frames, height, width, 3), dtype=np.uint8))
    got = library.patchify(frames, patch, merge, SCALE, OFFSET)
    wanted = patchify(frames, patch, merge, SCALE, OFFSET)
    assert got.shape == wanted.shape
    assert np.array_equal(got, wanted)


def test_patchify_takes_views(library: KernelLibrary, rng: np.random.Generator) -> None:
    frame = rng.integers(0, 256, (40, 70, 3), dtype=np.uint8)[3:35, 2:66, ::-1]
    got = library.patchify([frame, frame], 16, 2, SCALE, OFFSET)
    assert np.array_equal(got, patchify([frame, frame], 16, 2, SCALE, OFFSET))


def test_patchify_refuses(library: KernelLibrary) -> None:
    frame = np.zeros((32, 48, 3), np.uint8)
    with pytest.raises(KernelError, match="frames are 32 x 48, wanted multiples of 32"):
        library.patchify([frame], 16, 2, SCALE, OFFSET)
    with pytest.raises(KernelError, match="patch is 65 and merge 2, wanted 1 to 64"):
        library.patchify([frame], 65, 2, SCALE, OFFSET)
    with pytest.raises(KernelError, match=r"frames are \['float32 .* wanted one or more uint8"):
        library.patchify([frame.astype(np.float32)], 16, 1, SCALE, OFFSET)
    with pytest.raises(KernelError, match="of one shape"):
        library.patchify([frame, frame[:16]], 16, 1, SCALE, OFFSET)


@pytest.mark.parametrize(
    ("height", "width", "channels", "tile"), [(32, 64, 3, 32), (33, 65, 3, 32), (5, 7, 4, 16), (100, 90, 1, 7)]
)
def test_tile_diff(
    library: KernelLibrary, rng: np.random.Generator, height: int, width: int, channels: int, tile: int
) -> None:
    a, b = rng.integers(0, 256, (2, height, width, channels), dtype=np.uint8)
    b[height // 2 :] = a[height // 2 :]  # half of it is the same
    for got, wanted in zip(library.tile_diff(a, b, tile), tile_diff(a, b, tile), strict=True):
        assert got.dtype == wanted.dtype
        assert np.array_equal(got, wanted)


def test_tile_diff_counts_the_extremes(library: KernelLibrary) -> None:
    a, b = np.zeros((64, 64, 4), np.uint8), np.full((64, 64, 4), 255, np.uint8)
    total, peak = library.tile_diff(a, b, 64)
    assert total.item() == 64 * 64 * 4 * 255
    assert peak.item() == 255


def test_tile_diff_refuses(library: KernelLibrary) -> None:
    frame = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(KernelError, match="wanted two uint8"):
        library.tile_diff(frame, frame[:4], 4)
    with pytest.raises(KernelError, match="tile is 0, wanted 1 to 4096"):
        library.tile_diff(frame, frame, 0)
