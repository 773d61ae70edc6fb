"""`edge.VisionAttention`: attention of some or all patches of one frame over all of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_kernels.reference.attention import quantize_heads, rotate

Float = NDArray[np.float32]


def vision_attention(
    qkv: Float, cos: Float, sin: Float, num_heads: int, query_rows: tuple[int, int] | None = None
) -> Float:
    """softmax(q k / sqrt(head_dim)) v with rotated q and k, both quantized to int8 per patch and head.

    qkv: [N, 3 num_heads head_dim], q then k then v; cos, sin: [N, head_dim/2]. Returns [N, num_heads head_dim], or
    only the rows from query_rows[0] up to, not with, query_rows[1].
    """
    patches, half = cos.shape
    begin, end = (0, patches) if query_rows is None else query_rows
    q, k, v = np.split(qkv.reshape(patches, 3 * num_heads, 2 * half), 3, axis=1)
    (q8, q_scale), (k8, k_scale) = (quantize_heads(rotate(x, cos, sin)) for x in (q, k))
    q8, q_scale = q8[begin:end], q_scale[begin:end]
    scores = np.einsum("nhd,mhd->hnm", q8.astype(np.float64), k8.astype(np.float64)) / np.sqrt(2 * half)
    scores *= q_scale.T[:, :, None] * k_scale.T[:, None, :]
    weights = np.exp(scores - scores.max(axis=2, keepdims=True))
    weights /= weights.sum(axis=2, keepdims=True)
    out: Float = (
        np.einsum("hnm,mhd->nhd", weights, v.astype(np.float64))
        .reshape(end - begin, 2 * half * num_heads)
        .astype(np.float32)
    )
    return out
