"""Blocks of keys and values can be copied, saved and brought back, to the bit, and by any lease that has them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_kernels.library import KernelLibrary
from edge_runtime.devices.profile import KVDtype
from edge_runtime.engine.bundle_runner import BundleRunner, RunnerSettings
from edge_runtime.engine.model_runner import Step
from edge_runtime.engine.request import GenerationRequest
from edge_runtime.errors import InternalError
from edge_runtime.model.bundle import open_bundle
from edge_runtime.model.cancellation import CancelToken
from edge_runtime.model.conversation import Message
from edge_runtime.model.graph import GraphSettings
from edge_runtime.model.kv_memory import KVMemory, bytes_per_token
from edge_runtime.model.paged_kv_cache import PagedLease
from edge_runtime.model.ragged_decoder import BLOCK_SIZE, RaggedDecoder
from edge_runtime.vision.image import ImageLimits

ROWS = {"key": (np.dtype(np.int8), (4,)), "key_scale": (np.dtype(np.float32), ())}


def filled(num_blocks: int = 3) -> KVMemory:
    memory = KVMemory(ROWS, num_heads=2, num_blocks=num_blocks, block_size=8)
    rng = np.random.default_rng(0)
    for array in memory.arrays.values():
        array[:] = rng.integers(-100, 100, array.shape)
    return memory


def test_arrays_have_the_shape_the_graph_wants_and_start_as_zeros() -> None:
    memory = KVMemory(ROWS, num_heads=2, num_blocks=3, block_size=8)
    assert sum(array.nbytes for array in memory.arrays.values()) == 3 * 8 * bytes_per_token(ROWS, num_heads=2)
    assert {name: (array.shape, str(array.dtype)) for name, array in memory.arrays.items()} == {
        "key": ((3, 2, 8, 4), "int8"),
        "key_scale": ((3, 2, 8), "float32"),
    }
    assert not any(array.any() for array in memory.arrays.values())


@pytest.mark.parametrize("num_tokens", [1, 5, 8])
def test_what_was_saved_comes_back_in_another_block(num_tokens: int) -> None:
    memory, other = filled(), KVMemory(ROWS, num_heads=2, num_blocks=1, block_size=20)
    saved = memory.dump(1, num_tokens)
    memory.load(0, num_tokens, saved)
    other.load(0, num_tokens, saved, start=3)
    for name, array in memory.arrays.items():
        assert np.array_equal(array[0, :, :num_tokens], array[1, :, :num_tokens])
        assert np.array_equal(other.arrays[name][0, :, 3 : 3 + num_tokens], array[1, :, :num_tokens])


def test_what_has_another_length_is_refused_and_nothing_is_written() -> None:
    memory = filled()
    others = (
        KVMemory(ROWS, num_heads=3, num_blocks=1, block_size=8),
        KVMemory({**ROWS, "key": (np.dtype(np.float16), (4,))}, num_heads=2, num_blocks=1, block_size=8),
    )
    saved = memory.dump(1, 8)
    for wrong in (b"", saved[:-1], saved + b"0", *(other.dump(0, 8) for other in others)):
        with pytest.raises(InternalError, match="do not fit 8 tokens"):
            memory.load(0, 8, wrong)
    assert all(np.array_equal(array, filled().arrays[name]) for name, array in memory.arrays.items())


@pytest.mark.parametrize(("block", "num_tokens"), [(3, 1), (-1, 1), (0, 9), (0, -1)])
def test_what_is_not_there_is_an_internal_error(block: int, num_tokens: int) -> None:
    memory = filled()
    with pytest.raises(InternalError, match="were asked for"):
        memory.dump(block, num_tokens)


@pytest.mark.parametrize("kv_dtype", ["fp32", "fp16", "int8"])
def test_a_chat_goes_on_from_blocks_that_another_has_written(
    tiny_bundle_edge: Path, kernel_library: KernelLibrary, kv_dtype: KVDtype
) -> None:
    settings = RunnerSettings(1024, 2048, None, GraphSettings(2, kernels=kernel_library), ImageLimits(), kv_dtype)
    runner = BundleRunner(open_bundle(tiny_bundle_edge), settings)
    decoder = runner._decoder
    assert isinstance(decoder, RaggedDecoder)
    log = runner.prepare(GenerationRequest("r", (Message("user", "word " * 40),)))
    total = log.num_prompt
    assert BLOCK_SIZE < total < 4 * BLOCK_SIZE
    first, second = (runner.kv_cache.lease(total) for _ in range(2))
    assert isinstance(first, PagedLease)
    assert isinstance(second, PagedLease)
    (whole,) = runner.forward([Step(log, log.input_ids, first, 1, CancelToken())])
    for number, (source, target) in enumerate(zip(first.block_ids, second.block_ids, strict=True)):
        if number % 2:
            inside = np.arange(BLOCK_SIZE)
            decoder.memory.copy_rows(source * BLOCK_SIZE + inside, target * BLOCK_SIZE + inside)
        else:
            decoder.memory.load(target, BLOCK_SIZE, decoder.memory.dump(source, BLOCK_SIZE))
    second.extend(total - 1)
    (again,) = runner.forward([Step(log, log.ids(total - 1, total), second, 1, CancelToken())])
    assert whole is not None
    assert again is not None
    assert np.array_equal(whole.rows, again.rows)


@pytest.mark.parametrize("is_other", [False, True])
def test_rows_are_copied_wherever_they_lie(*, is_other: bool) -> None:
    """Over the ends of blocks, past gaps, and down within one memory."""
    memory = filled(6)
    target = KVMemory(ROWS, num_heads=2, num_blocks=1, block_size=48) if is_other else memory
    before = [np.moveaxis(array, 1, 2).reshape(48, 2, *array.shape[3:]).copy() for array in memory.arrays.values()]
    sources = np.array([2, 3, 7, 8, 9, 20, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 40])
    targets = np.arange(1, 1 + len(sources))
    memory.copy_rows(sources, targets, into=target)
    memory.copy_rows(sources[:0], targets[:0])
    for array, old in zip(target.arrays.values(), before, strict=True):
        rows = np.moveaxis(array, 1, 2).reshape(48, 2, *array.shape[3:])
        assert np.array_equal(rows[targets], old[sources])
    with pytest.raises(InternalError, match="of block 6"):
        memory.copy_rows(np.array([48]), np.array([0]))
