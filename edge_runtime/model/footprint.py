"""What a bundle needs in memory, per unit of everything the memory planner may choose. Reads only the manifest.

The family counts what there is; here is how it is stored, and what of it stays in memory. Of a portable bundle ONNX
Runtime copies every matrix into its own layout when it loads ("prepacking") and does not look at the mapped original
again, so the copy counts and the original, whose clean pages the system can drop, does not. An edge bundle's original
is all there is.
"""

from __future__ import annotations

from collections.abc import Mapping

from edge_runtime.devices.memory import ModelFootprint
from edge_runtime.families.qwen3_vl.config import Architecture
from edge_runtime.families.qwen3_vl.footprint import (
    decoder_values,
    kv_bytes_per_token,
    merger_values,
    patch_values,
    prefill_bytes_per_token,
    vector_bytes,
    vision_bytes_per_patch,
)
from edge_runtime.model.manifest import Flavour, Manifest, QuantizationScheme, TensorFormat, kv_dtypes

_FLOAT_BYTES = 4
_SCALE_BYTES: Mapping[Flavour, int] = {"portable": 4, "edge": 2}
_FIXED_BYTES: Mapping[Flavour, int] = {"portable": 300 * 2**20, "edge": 256 * 2**20}
"""Interpreter, libraries, tokenizer, graph structures, scratch of the operators; portable: mapped pages that stay warm.

Edge, measured: 112 MiB with a vocabulary of a thousand tokens, 100 more with Qwen's; the rest is for serving.
"""
MAX_DRAFT_ROWS = 24
"""Rows of logits that a run may have beyond one per chat: for tokens that were guessed."""
GRAMMAR_BYTES = 950
"""Per token of the vocabulary, from the first answer with a grammar on: what llguidance knows of each. Measured 906."""
_BYTES_PER_WORD = GRAMMAR_BYTES + (1 + MAX_DRAFT_ROWS) * _FLOAT_BYTES
_PREPACK_FACTOR = 1.125
"""Prepacked bytes per stored byte: block sums are added. Measured 1.05 (vision) and 1.12 (decoder)."""
_INT4_BLOCK = 32


def footprint(manifest: Manifest) -> ModelFootprint:
    """Plain numbers for `edge_runtime.devices.planner.plan_memory`."""
    architecture = manifest.architecture
    text, vision, image = architecture.text, architecture.vision, manifest.image_processor
    num_taps = len(vision.deepstack_layers)
    matrices = _matrix_bytes(architecture, manifest.quantization, manifest.flavour)
    int4 = _matrix_bytes(architecture, _with_int4_decoder(manifest.quantization), manifest.flavour)
    is_edge = manifest.flavour == "edge"
    return ModelFootprint(
        weights_bytes=vector_bytes(architecture) + (matrices if is_edge else 0),
        prepacked_bytes=0 if is_edge else matrices,
        fixed_bytes=_FIXED_BYTES[manifest.flavour] + text.vocab_size * _BYTES_PER_WORD,
        kv_bytes_per_token={dtype: kv_bytes_per_token(text, dtype) for dtype in kv_dtypes(manifest.flavour)},
        max_context=text.max_position_embeddings,
        patch_size=vision.patch_size,
        merge_size=vision.spatial_merge_size,
        min_pixels=image.min_pixels,
        max_pixels=image.max_pixels,
        vision_bytes_per_patch=vision_bytes_per_patch(vision, is_edge=is_edge),
        feature_bytes_per_token=(1 + num_taps) * text.hidden_size * _FLOAT_BYTES,
        prefill_bytes_per_token=prefill_bytes_per_token(architecture, is_edge=is_edge),
        # Nothing grows with chunk x context: GroupQueryAttention of ONNX Runtime 1.32 works in tiles (measured 2-9 MB),
        # and so do our own operators.
        prefill_bytes_per_token_and_context=0,
        int4_weights_bytes=vector_bytes(architecture) + int4 if int4 < matrices else None,
    )


def _matrix_bytes(architecture: Architecture, scheme: QuantizationScheme, flavour: Flavour) -> int:
    """All matrices: where they lie in the mapped file, or, portable, the execution provider's copies of them."""
    text, vision = architecture.text, architecture.vision
    stored = (
        _stored_bytes(decoder_values(text), scheme.decoder_linear, flavour)
        + _stored_bytes(text.vocab_size * text.hidden_size, scheme.lm_head, flavour)
        + _stored_bytes(patch_values(vision) + merger_values(vision), scheme.vision_linear, flavour)
    )
    return int(stored * (_PREPACK_FACTOR if flavour == "portable" else 1))


def _stored_bytes(num_values: int, tensor_format: TensorFormat, flavour: Flavour) -> float:
    if tensor_format.weights == "fp32" or tensor_format.block_size is None:
        return num_values * _FLOAT_BYTES
    scale_bytes = _SCALE_BYTES[flavour] / tensor_format.block_size
    return num_values * ({"int4": 0.5, "int8": 1.0}[tensor_format.weights] + scale_bytes)


def _with_int4_decoder(scheme: QuantizationScheme) -> QuantizationScheme:
    """What `edge-export --weights int4` would store: int4 layers; head and tower no wider than int8."""
    return QuantizationScheme(
        decoder_linear=TensorFormat(weights="int4", block_size=_INT4_BLOCK),
        vision_linear=_no_wider_than_int8(scheme.vision_linear),
        lm_head=_no_wider_than_int8(scheme.lm_head),
        embedding=scheme.embedding,
    )


def _no_wider_than_int8(tensor_format: TensorFormat) -> TensorFormat:
    return TensorFormat(weights="int8", block_size=_INT4_BLOCK) if tensor_format.weights == "fp32" else tensor_format
