"""`edge.VisionAttention`: full attention over the patches of one frame."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_kernels.reference.attention import quantize_heads, rotate

Float = NDArray[np.float32]


def vision_attention(qkv: Float, cos: Float, sin: Float, num_heads: int) -> Float:
    """softmax(q k / sqrt(head_dim)) v with rotated q and k, both quantized to int8 per patch and head.

    qkv: [N, 3 num_heads head_dim], q then k then v; cos, sin: [N, head_dim/2]. Returns [N, num_heads head_dim].
    """
    patches, half = cos.shape
    q, k, v = np.split(qkv.reshape(patches, 3 * num_heads, 2 * half), 3, axis=1)
    (q8, q_scale), (k8, k_scale) = (quantize_heads(rotate(x, cos, sin)) for x in (q, k))
    scores = np.einsum("nhd,mhd->hnm", q8.astype(np.float64), k8.astype(np.float64)) / np.sqrt(2 * half)
    scores *= q_scale.T[:, :, None] * k_scale.T[:, None, :]
    weights = np.exp(scores - scores.max(axis=2, keepdims=True))
    weights /= weights.sum(axis=2, keepdims=True)
    out: Float = np.einsum("hnm,mhd->nhd", weights, v.astype(np.float64)).reshape(patches, -1).astype(np.float32)
    return out
