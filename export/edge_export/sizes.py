"""How much an export will read and write, from the headers of the checkpoint alone."""

from __future__ import annotations

from edge_export.checkpoint.layouts import EMBEDDING_NAME, HEAD_NAME
from edge_export.checkpoint.weights import Weights
from edge_runtime.model.manifest import QuantizationScheme, TensorFormat

BYTES_PER_VALUE = {"int4": 0.5, "int8": 1.0, "fp32": 4.0}
SCALE_BYTES = 4
OVERHEAD_BYTES = 1 << 26
"""Room for graphs, tokenizer, position table, page boundaries."""


def num_parameters(weights: Weights) -> int:
    """Values in all tensors of the checkpoint."""
    return sum(entry.size for entry in weights.entries.values())


def source_bytes(weights: Weights, *prefixes: str) -> int:
    """Bytes of the tensors whose names begin with one of `prefixes`; of all without any."""
    return sum(entry.num_bytes for name, entry in weights.entries.items() if name.startswith(prefixes or ""))


def shares_head(scheme: QuantizationScheme, *, tied: bool) -> bool:
    """Whether the embedding table and the LM head are one piece of data in the bundle."""
    return tied and scheme.lm_head == scheme.embedding


def bundle_bytes(weights: Weights, scheme: QuantizationScheme, *, tied: bool) -> int:
    """About the size of the bundle, never less than it."""
    total = float(OVERHEAD_BYTES)
    for name, entry in weights.entries.items():
        if name == EMBEDDING_NAME:
            formats = [scheme.embedding]
            if tied and not shares_head(scheme, tied=tied):
                formats.append(scheme.lm_head)
        elif name == HEAD_NAME:
            formats = [scheme.lm_head]
        elif name.startswith("model.visual."):
            formats = [scheme.vision_linear]
        else:
            formats = [scheme.decoder_linear]
        # Norms and biases are counted as if quantized; OVERHEAD_BYTES covers what they take more.
        total += sum(entry.size * _bytes_per_value(tensor_format) for tensor_format in formats)
    return int(total)


def _bytes_per_value(tensor_format: TensorFormat) -> float:
    scale = 0.0 if tensor_format.block_size is None else SCALE_BYTES / tensor_format.block_size
    return BYTES_PER_VALUE[tensor_format.weights] + scale
