"""A checkpoint's weights as a quantized bundle stores them: quantized, and dequantized again.

The reference on these weights computes what the bundle's graphs should, so it tells a wrong graph from coarse weights.
"""

from __future__ import annotations

from pathlib import Path

from edge_export.families.qwen3_vl.reference.ops import Array
from edge_export.families.qwen3_vl.reference.weights import Use, Weights
from edge_export.quantize import dequantize, quantize
from edge_export.weight_writer import BITS
from edge_runtime.model.manifest import Manifest, TensorFormat


class RoundedWeights(Weights):
    """Weights of `checkpoint` with the rounding that the bundle of `manifest` has."""

    def __init__(self, checkpoint: Path, manifest: Manifest, max_cached_bytes: int) -> None:
        super().__init__(checkpoint, max_cached_bytes)
        self._scheme = manifest.quantization
        self._half_scales = manifest.flavour == "edge"
        self._quantized = {error.name for error in manifest.tensor_errors}

    def rounded(self, name: str, values: Array, use: Use) -> Array:
        """`values` through the quantizer's round trip, where the bundle stores `name` quantized."""
        tensor_format = self._format(name, use)
        if name not in self._quantized or tensor_format.block_size is None:
            return values
        bits = BITS[tensor_format.weights]
        matrix = values.reshape(len(values), -1)
        blocks, _ = quantize(matrix, bits, tensor_format.block_size, half_scales=self._half_scales)
        return dequantize(blocks, bits, matrix.shape[1]).reshape(values.shape)

    def _format(self, name: str, use: Use) -> TensorFormat:
        if use != "linear":
            return self._scheme.embedding if use == "embedding" else self._scheme.lm_head
        return self._scheme.vision_linear if name.startswith("model.visual.") else self._scheme.decoder_linear
