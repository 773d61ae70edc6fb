"""`edge.Attention`: a ragged batch of tokens over a paged key-value cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]
Int = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class HeadNorms:
    """The RMS norms over each head of the queries and keys."""

    query: Float
    """[head_dim] weights"""
    key: Float
    epsilon: float


@dataclass(frozen=True, slots=True)
class PagedCache:
    """The pool of one layer; `attention` writes into the arrays."""

    key: NDArray[Any]
    """[num_blocks, num_kv_heads, block_size, head_dim] float32, float16 or int8"""
    value: NDArray[Any]
    key_scale: Float | None
    """[num_blocks, num_kv_heads, block_size] for int8, else None"""
    value_scale: Float | None


@dataclass(frozen=True, slots=True)
class TokenPlaces:
    """Where the tokens of a run stand."""

    block_table: Int
    """[S, max_blocks] the blocks of each chat"""
    row: Int
    """[T] the token's row of the table"""
    slot: Int
    """[T] the position its key and value are written to"""
    keys: Int
    """[T] it sees positions 0 .. keys - 1"""


def head_rms_norm(x: Float, weight: Float, epsilon: float) -> NDArray[np.float64]:
    """x / sqrt(mean(x^2) + epsilon) * weight over the last axis."""
    wide = x.astype(np.float64)
    scaled: NDArray[np.float64] = wide / np.sqrt(np.mean(wide * wide, axis=-1, keepdims=True) + epsilon) * weight
    return scaled


def rotate(x: NDArray[Any], cos: Float, sin: Float) -> NDArray[np.float64]:
    """Rotary embedding, halves apart. x: [T, heads, head_dim]; cos, sin: [T, head_dim/2]."""
    a, b = np.split(x.astype(np.float64), 2, axis=-1)
    c, s = cos[:, None, :], sin[:, None, :]
    return np.concatenate([a * c - b * s, b * c + a * s], axis=-1)


def quantize_heads(x: NDArray[np.float64]) -> tuple[NDArray[np.int8], Float]:
    """Each head to int8: q = round(x / scale), scale = max|x| / 127. Returns q and the scales without the last axis."""
    largest = np.abs(x).max(axis=-1)
    inverse = np.where(largest > 0, 127 / np.where(largest > 0, largest, 1), 0)
    return np.rint(x * inverse[..., None]).astype(np.int8), (largest / 127).astype(np.float32)


def attention(
    qkv: Float, norms: HeadNorms, rope: tuple[Float, Float], cache: PagedCache, places: TokenPlaces, num_heads: int
) -> Float:
    """Append every token's key and value to the cache, then softmax(q k / sqrt(head_dim)) v over what each token sees.

    qkv: [T, (num_heads + 2 num_kv_heads) head_dim]; rope: cos and sin [T, head_dim/2]. With an int8 cache q is
    quantized to int8 too. Mutates `cache`. Returns [T, num_heads head_dim].
    """
    tokens, num_kv_heads, head_dim = qkv.shape[0], cache.key.shape[1], cache.key.shape[3]
    heads = qkv.reshape(tokens, num_heads + 2 * num_kv_heads, head_dim)
    q_raw, k_raw, v = np.split(heads, [num_heads, num_heads + num_kv_heads], axis=1)
    q = rotate(head_rms_norm(q_raw, norms.query, norms.epsilon), *rope)
    k = rotate(head_rms_norm(k_raw, norms.key, norms.epsilon), *rope)
    block_size = cache.key.shape[2]
    blocks = places.block_table[places.row, places.slot // block_size]
    slots = places.slot % block_size
    _store(cache.key, cache.key_scale, k, blocks, slots)
    _store(cache.value, cache.value_scale, v.astype(np.float64), blocks, slots)
    if cache.key_scale is not None:
        integers, scales = quantize_heads(q)
        q = integers.astype(np.float64) * scales[..., None]
    out = np.empty((tokens, num_heads, head_dim), np.float32)
    for t in range(tokens):
        seen = int(places.keys[t])
        table = places.block_table[places.row[t]][: -(-seen // block_size)]
        keys, values = (
            np.repeat(_load(pool, scale, table, seen), num_heads // num_kv_heads, axis=0)
            for pool, scale in ((cache.key, cache.key_scale), (cache.value, cache.value_scale))
        )
        scores = np.einsum("hd,hnd->hn", q[t], keys) / np.sqrt(head_dim)
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        out[t] = np.einsum("hn,hnd->hd", weights / weights.sum(axis=1, keepdims=True), values)
    return out.reshape(tokens, -1)


def _store(pool: NDArray[Any], scales: Float | None, x: NDArray[np.float64], blocks: Int, slots: Int) -> None:
    if scales is None:
        pool[blocks, :, slots] = x
    else:
        pool[blocks, :, slots], scales[blocks, :, slots] = quantize_heads(x)


def _load(pool: NDArray[Any], scales: Float | None, table: Int, length: int) -> NDArray[np.float64]:
    x = pool[table].astype(np.float64)  # [blocks, heads, block, head_dim]
    if scales is not None:
        x *= scales[table][..., None]
    return np.moveaxis(x, 1, 0).reshape(pool.shape[1], -1, pool.shape[3])[:, :length]
