"""edge.Attention against its numpy definition, through a real graph: ragged batches over paged caches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_kernels.reference.attention import HeadNorms, PagedCache, TokenPlaces, attention

RunOp = Callable[..., list[NDArray[np.float32]]]
CACHE_TYPES = [np.float32, np.float16, np.int8]
# Relative to the largest output. float16: a stored key may round to the neighbouring half. int8: a tie of the rounding
# moves a score by half a step; avx512_bf16 also keeps probabilities in eight bits.
TOLERANCE = {np.float32: 1e-5, np.float16: 1e-3, np.int8: 1e-2}


@dataclass(frozen=True)
class Heads:
    query: int
    kv: int
    dim: int


def empty_cache(num_blocks: int, block_size: int, heads: Heads, dtype: type) -> PagedCache:
    """Pools full of what must not matter: the largest numbers, or NaN where the type has it."""
    fill = 127 if dtype is np.int8 else np.nan
    key, value = (np.full((num_blocks, heads.kv, block_size, heads.dim), fill, dtype) for _ in range(2))
    if dtype is not np.int8:
        return PagedCache(key, value, None, None)
    key_scale, value_scale = (np.full((num_blocks, heads.kv, block_size), np.nan, np.float32) for _ in range(2))
    return PagedCache(key, value, key_scale, value_scale)


def copy(cache: PagedCache) -> PagedCache:
    scales = (None if s is None else s.copy() for s in (cache.key_scale, cache.value_scale))
    return PagedCache(cache.key.copy(), cache.value.copy(), *scales)


@dataclass
class Chats:
    """Chats whose tokens (random rows) are run piece by piece."""

    tokens: dict[str, NDArray[Any]]
    places: TokenPlaces
    norms: tuple[NDArray[np.float32], NDArray[np.float32]]
    heads: Heads

    @classmethod
    def random(cls, rng: np.random.Generator, lengths: Sequence[int], heads: Heads, block_size: int) -> Chats:
        total, longest = sum(lengths), max(lengths)
        max_blocks = -(-longest // block_size)
        table = rng.permutation(len(lengths) * max_blocks).reshape(len(lengths), max_blocks).astype(np.int32)
        angles = rng.uniform(0, 6.28, (total, heads.dim // 2))
        tokens = {
            "qkv": rng.standard_normal((total, (heads.query + 2 * heads.kv) * heads.dim), np.float32) * 3,
            "rope_cos": np.cos(angles).astype(np.float32),
            "rope_sin": np.sin(angles).astype(np.float32),
        }
        row = np.repeat(np.arange(len(lengths)), lengths).astype(np.int32)
        slot = np.concatenate([np.arange(n) for n in lengths]).astype(np.int32)
        norms = tuple(rng.uniform(0.5, 1.5, heads.dim).astype(np.float32) for _ in range(2))
        return cls(tokens, TokenPlaces(table, row, slot, slot + 1), norms, heads)

    def cache(self, block_size: int, dtype: type) -> PagedCache:
        return empty_cache(self.places.block_table.size, block_size, self.heads, dtype)

    def run(self, run_op: RunOp, cache: PagedCache, picked: NDArray[Any], **options: Any) -> NDArray[np.float32]:
        """One run of the op over the picked tokens; `cache` is written to."""
        inputs = {
            "qkv": self.tokens["qkv"][picked],
            "q_norm": self.norms[0],
            "k_norm": self.norms[1],
            "rope_cos": self.tokens["rope_cos"][picked],
            "rope_sin": self.tokens["rope_sin"][picked],
            "key_cache": cache.key,
            "value_cache": cache.value,
            "block_table": self.places.block_table,
            "token_row": self.places.row[picked],
            "token_slot": self.places.slot[picked],
            "token_keys": self.places.keys[picked],
            "key_scale": cache.key_scale,
            "value_scale": cache.value_scale,
        }
        attributes = {"num_heads": self.heads.query, "num_kv_heads": self.heads.kv, "epsilon": 1e-6}
        return run_op("Attention", inputs, **attributes, **options)[0]

    def reference(self, cache: PagedCache) -> NDArray[np.float32]:
        rope = (self.tokens["rope_cos"], self.tokens["rope_sin"])
        return attention(self.tokens["qkv"], HeadNorms(*self.norms, 1e-6), rope, cache, self.places, self.heads.query)

    @property
    def all(self) -> NDArray[Any]:
        return np.arange(self.places.row.size)


@pytest.mark.parametrize("dtype", CACHE_TYPES)
@pytest.mark.parametrize("heads", [Heads(1, 1, 8), Heads(4, 2, 64), Heads(8, 2, 128), Heads(3, 3, 72)], ids=str)
@pytest.mark.parametrize(("lengths", "block_size"), [([1], 1), ([70, 3], 16), ([33, 1, 130], 7)])
def test_matches_reference(
    run_op: RunOp,
    rng: np.random.Generator,
    isa: str,
    dtype: type,
    heads: Heads,
    lengths: list[int],
    block_size: int,
) -> None:
    chats = Chats.random(rng, lengths, heads, block_size)
    cache = chats.cache(block_size, dtype)
    wanted_cache = copy(cache)
    wanted = chats.reference(wanted_cache)
    y = chats.run(run_op, cache, chats.all, isa=isa)
    assert y.shape == wanted.shape
    assert np.abs(y - wanted).max() <= TOLERANCE[dtype] * np.abs(wanted).max()
    # What was stored: the same places, and the same numbers up to one step of the type.
    step = {np.float32: 1e-5, np.float16: 4e-3, np.int8: 1}[dtype]
    for got, expected in [(cache.key, wanted_cache.key), (cache.value, wanted_cache.value)]:
        np.testing.assert_allclose(got.astype(np.float32), expected.astype(np.float32), atol=step)
    if dtype is np.int8:
        np.testing.assert_allclose(cache.key_scale, wanted_cache.key_scale, rtol=1e-5)
        np.testing.assert_allclose(cache.value_scale, wanted_cache.value_scale, rtol=1e-5)


@pytest.mark.parametrize("dtype", CACHE_TYPES)
def test_rows_do_not_depend_on_their_run(run_op: RunOp, rng: np.random.Generator, isa: str, dtype: type) -> None:
    """The same bits in one run, token by token, in chunks, batched with another chat, and on one thread or two."""
    chats = Chats.random(rng, [150, 40], Heads(4, 2, 64), 16)
    whole = chats.run(run_op, chats.cache(16, dtype), chats.all, isa=isa)

    def in_pieces(pieces: Sequence[NDArray[Any]], threads: int) -> NDArray[np.float32]:
        cache, out = chats.cache(16, dtype), np.empty_like(whole)
        for piece in pieces:
            out[piece] = chats.run(run_op, cache, piece, isa=isa, threads=threads)
        return out

    one_by_one = [chats.all[i : i + 1] for i in chats.all]
    uneven = [np.r_[0:61], np.r_[61:64, 150:151], np.r_[64:129, 151:190], np.r_[129:150]]
    assert np.array_equal(in_pieces(one_by_one, 1), whole)
    assert np.array_equal(in_pieces(uneven, 2), whole)


@pytest.mark.parametrize("dtype", CACHE_TYPES)
def test_shared_prefix(run_op: RunOp, rng: np.random.Generator, isa: str, dtype: type) -> None:
    """Two rows of the table that begin with the same block: the second chat sees what the first one wrote."""
    chats = Chats.random(rng, [24, 24], Heads(2, 1, 16), 8)
    for values in chats.tokens.values():
        values[24:40] = values[:16]
    apart = chats.run(run_op, chats.cache(8, dtype), chats.all, isa=isa)
    chats.places.block_table[1, :2] = chats.places.block_table[0, :2]
    cache = chats.cache(8, dtype)
    first = chats.run(run_op, cache, np.r_[0:24], isa=isa)
    second = chats.run(run_op, cache, np.r_[40:48], isa=isa)
    assert np.array_equal(first, apart[:24])
    assert np.array_equal(second, apart[40:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"token_row": [0, 2]}, "input 'token_row' is 2 for token 1, wanted 0 to 1"),
        ({"token_slot": [-1, 0]}, "input 'token_slot' is -1 for token 0, wanted 0 to 7"),
        ({"token_slot": [8, 0]}, "input 'token_slot' is 8 for token 0, wanted 0 to 7"),
        ({"token_keys": [1, 0]}, "input 'token_keys' is 0 for token 1, wanted 1 to 8"),
        ({"token_keys": [9, 1]}, "input 'token_keys' is 9 for token 0, wanted 1 to 8"),
        ({"block_table": [[4, 0], [1, 2]]}, r"input 'block_table' is 4 at \[0, 0\], wanted 0 to 3"),
        ({"block_table": [[-1, 0], [1, 2]]}, r"input 'block_table' is -1 at \[0, 0\], wanted 0 to 3"),
        ({"token_row": [0]}, r"input 'token_row' is int32 \[1\], wanted int32 \[2\]"),
    ],
)
def test_refuses_places_outside_the_cache(run_op: RunOp, change: dict[str, list[Any]], message: str) -> None:
    inputs = small_inputs() | {name: np.array(value, np.int32) for name, value in change.items()}
    with pytest.raises(Exception, match=rf"edge.Attention '/Attention': {message}"):
        run_op("Attention", inputs, num_heads=2, num_kv_heads=1, epsilon=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"qkv": np.zeros((2, 33), np.float32)}, r"input 'qkv' is float32 \[2, 33\], wanted float32 \[2, 32\]"),
        ({"k_norm": np.ones(7, np.float32)}, r"input 'k_norm' is float32 \[7\], wanted float32 \[8\]"),
        ({"value_cache": np.zeros((4, 1, 4, 8), np.float16)}, "input 'value_cache' is float16 .* wanted float32"),
        (
            {"key_cache": np.zeros((4, 1, 4, 8), np.int32)},
            "input 'key_cache' is int32 .* wanted float32, float16 or int8",
        ),
        ({"key_scale": np.zeros((4, 1, 4), np.float32)}, "'key_scale' and 'value_scale' are for an int8 cache"),
        (
            {"key_cache": np.zeros((4, 1, 4, 8), np.int8), "value_cache": np.zeros((4, 1, 4, 8), np.int8)},
            r"input 'key_scale' is absent, wanted float32 \[4, 1, 4\]",
        ),
    ],
)
def test_refuses_wrong_shapes(run_op: RunOp, change: dict[str, NDArray[Any]], message: str) -> None:
    with pytest.raises(Exception, match=message):
        run_op("Attention", small_inputs() | change, num_heads=2, num_kv_heads=1, epsilon=1e-6)


def test_refuses_wrong_heads(run_op: RunOp) -> None:
    with pytest.raises(Exception, match="num_heads and num_kv_heads are 3 and 2"):
        run_op("Attention", small_inputs(), num_heads=3, num_kv_heads=2, epsilon=1e-6)


def small_inputs() -> dict[str, NDArray[Any] | None]:
    """Two tokens of two chats, heads 2 and 1 of 8 values, four blocks of four."""
    return {
        "qkv": np.ones((2, 32), np.float32),
        "q_norm": np.ones(8, np.float32),
        "k_norm": np.ones(8, np.float32),
        "rope_cos": np.ones((2, 4), np.float32),
        "rope_sin": np.zeros((2, 4), np.float32),
        "key_cache": np.zeros((4, 1, 4, 8), np.float32),
        "value_cache": np.zeros((4, 1, 4, 8), np.float32),
        "block_table": np.array([[3, 0], [1, 2]], np.int32),
        "token_row": np.array([0, 1], np.int32),
        "token_slot": np.array([0, 0], np.int32),
        "token_keys": np.array([1, 1], np.int32),
        "key_scale": None,
        "value_scale": None,
    }
