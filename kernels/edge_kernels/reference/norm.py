"""`edge.RMSNorm` and `edge.LayerNorm`, each over the last axis, with an optional residual added first."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


def rms_norm(x: Array, weight: Array, epsilon: float, residual: Array | None = None) -> tuple[Array, Array]:
    """s / sqrt(mean(s^2) + epsilon) * weight with s = x + residual. x: [rows, width]. Returns (y, s)."""
    s = x.astype(np.float64) if residual is None else x.astype(np.float64) + residual
    y = s / np.sqrt(np.mean(s * s, axis=-1, keepdims=True) + epsilon) * weight
    return y.astype(np.float32), s.astype(np.float32)


def layer_norm(
    x: Array, weight: Array, bias: Array, epsilon: float, residual: Array | None = None
) -> tuple[Array, Array]:
    """(s - mean(s)) / sqrt(var(s) + epsilon) * weight + bias with s = x + residual, [rows, width]. Returns (y, s)."""
    s = x.astype(np.float64) if residual is None else x.astype(np.float64) + residual
    centred = s - s.mean(axis=-1, keepdims=True)
    y = centred / np.sqrt(np.mean(centred * centred, axis=-1, keepdims=True) + epsilon) * weight + bias
    return y.astype(np.float32), s.astype(np.float32)
