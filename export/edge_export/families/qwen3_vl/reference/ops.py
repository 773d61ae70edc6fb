"""The handful of functions both towers are made of. All take and return float32."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


def linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """Linear layer: x [..., in] times weight [out, in], plus bias [out]."""
    y: Array = x @ weight.T
    return y if bias is None else y + bias


def layer_norm(x: Array, weight: Array, bias: Array, eps: float = 1e-6) -> Array:
    """Zero mean and unit variance over the last axis, then scale and shift. Qwen3-VL's vision tower has eps 1e-6."""
    mean = x.mean(axis=-1, keepdims=True)
    variance = np.square(x - mean).mean(axis=-1, keepdims=True)
    y: Array = (x - mean) / np.sqrt(variance + np.float32(eps)) * weight + bias
    return y


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    """Unit root mean square over the last axis, then scale (arXiv 1910.07467)."""
    y: Array = x / np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + np.float32(eps)) * weight
    return y


def softmax(x: Array) -> Array:
    """Over the last axis; rows may hold -inf, but not only."""
    e: Array = np.exp(x - x.max(axis=-1, keepdims=True))
    y: Array = e / e.sum(axis=-1, keepdims=True)
    return y


def silu(x: Array) -> Array:
    """Times the logistic function of itself, written so that nothing overflows."""
    y: Array = x * np.float32(0.5) * (1 + np.tanh(x * np.float32(0.5)))
    return y


def gelu_tanh(x: Array) -> Array:
    """GELU's tanh approximation (arXiv 1606.08415)."""
    inner = np.float32(np.sqrt(2 / np.pi)) * (x + np.float32(0.044715) * x**3)
    y: Array = np.float32(0.5) * x * (1 + np.tanh(inner))
    return y


def gelu(x: Array) -> Array:
    """Exact GELU: x times the normal distribution function, by `erf`."""
    y: Array = np.float32(0.5) * x * (1 + erf(x / np.float32(np.sqrt(2))))
    return y


def erf(x: Array) -> Array:
    """Error function to 1.5e-7: Abramowitz and Stegun, 7.1.26, in float64."""
    a = np.abs(x.astype(np.float64))
    t = 1 / (1 + 0.3275911 * a)
    poly = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    y: Array = (np.sign(x) * (1 - poly * np.exp(-a * a))).astype(np.float32)
    return y


def rotate(x: Array, cos: Array, sin: Array) -> Array:
    """Rotary embedding: the pairs (x[i], x[i + d/2]) turn by their angle. x [T, H, d]; cos, sin [T, d/2]."""
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]  # [T, H, d/2]
    cos, sin = cos[:, None, :], sin[:, None, :]  # [T, 1, d/2]
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
