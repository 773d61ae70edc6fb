"""What a bundle needs in memory, per unit of everything the memory planner may choose. Reads only the manifest.

The formulas follow the shapes the graphs hold at their widest; the factors were measured with ONNX Runtime 1.32 on the
CPU, on 2B-shaped int4 bundles (docs/decisions 5, 30 and 31 have the tables). Of a portable bundle ONNX Runtime copies
every matrix into its own layout when it loads ("prepacking") and does not look at the mapped original again, so the
copy counts and the original, whose clean pages the system can drop, does not. An edge bundle's original is all there
is.
"""

from __future__ import annotations

from collections.abc import Mapping

from edge_runtime.devices.memory import ModelFootprint
from edge_runtime.devices.profile import KVDtype
from edge_runtime.families.qwen3_vl.config import Architecture, TextArchitecture
from edge_runtime.model.manifest import Flavour, Manifest, QuantizationScheme, TensorFormat, kv_dtypes

_FLOAT_BYTES = 4
_SCALE_BYTES: Mapping[Flavour, int] = {"portable": 4, "edge": 2}
_FIXED_BYTES: Mapping[Flavour, int] = {"portable": 300 * 2**20, "edge": 256 * 2**20}
"""Interpreter, libraries, tokenizer, graph structures, scratch of the operators; portable: mapped pages that stay warm.

Edge, measured: 112 MiB with a vocabulary of a thousand tokens, 100 more with Qwen's; the rest is for serving.
"""
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
    is_mapped = manifest.flavour == "edge"
    return ModelFootprint(
        weights_bytes=_vector_bytes(manifest) + (matrices if is_mapped else 0),
        prepacked_bytes=0 if is_mapped else matrices,
        fixed_bytes=_FIXED_BYTES[manifest.flavour] + text.vocab_size * _FLOAT_BYTES,
        kv_bytes_per_token={dtype: _kv_bytes_per_token(text, dtype) for dtype in kv_dtypes(manifest.flavour)},
        max_context=text.max_position_embeddings,
        patch_size=vision.patch_size,
        merge_size=vision.spatial_merge_size,
        min_pixels=image.min_pixels,
        max_pixels=image.max_pixels,
        vision_bytes_per_patch=_vision_bytes_per_patch(architecture, manifest.flavour),
        feature_bytes_per_token=(1 + num_taps) * text.hidden_size * _FLOAT_BYTES,
        prefill_bytes_per_token=_prefill_bytes_per_token(architecture, manifest.flavour),
        # Nothing grows with chunk x context: GroupQueryAttention of ONNX Runtime 1.32 works in tiles (measured 2-9 MB),
        # and so do our own operators.
        prefill_bytes_per_token_and_context=0,
        int4_weights_bytes=_vector_bytes(manifest) + int4 if int4 < matrices else None,
    )


def _kv_bytes_per_token(text: TextArchitecture, dtype: KVDtype) -> int:
    """A key and a value for every layer and head; int8 ones have a scale each."""
    vector = {"fp32": 4 * text.head_dim, "fp16": 2 * text.head_dim, "int8": text.head_dim + _FLOAT_BYTES}[dtype]
    return 2 * text.num_layers * text.num_kv_heads * vector


def _vector_bytes(manifest: Manifest) -> int:
    """Weights used where they lie in the mapped file: norms, biases, position table."""
    vision, text = manifest.architecture.vision, manifest.architecture.text
    per_vision_block = 9 * vision.hidden_size + vision.intermediate_size
    per_decoder_layer = 2 * text.hidden_size + 2 * text.head_dim
    table = vision.num_position_embeddings * vision.hidden_size
    values = table + vision.depth * per_vision_block + text.num_layers * per_decoder_layer + text.hidden_size
    return values * _FLOAT_BYTES


def _matrix_bytes(architecture: Architecture, scheme: QuantizationScheme, flavour: Flavour) -> int:
    """All matrices: where they lie in the mapped file, or, portable, the execution provider's copies of them."""
    text, vision = architecture.text, architecture.vision
    attention = text.head_dim * (2 * text.num_attention_heads + 2 * text.num_kv_heads)
    decoder = text.num_layers * text.hidden_size * (attention + 3 * text.intermediate_size)
    head = text.vocab_size * text.hidden_size
    merged = vision.hidden_size * vision.spatial_merge_size**2
    mergers = (1 + len(vision.deepstack_layers)) * merged * (merged + vision.out_hidden_size)
    blocks = vision.depth * vision.hidden_size * (4 * vision.hidden_size + 2 * vision.intermediate_size)
    tower = blocks + mergers + vision.patch_dim * vision.hidden_size
    stored = (
        _stored_bytes(decoder, scheme.decoder_linear, flavour)
        + _stored_bytes(head, scheme.lm_head, flavour)
        + _stored_bytes(tower, scheme.vision_linear, flavour)
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


def _vision_bytes_per_patch(architecture: Architecture, flavour: Flavour) -> int:
    """Pixels and activations at the widest moment of a vision run; portable with its temporaries and its output.

    Edge: 58.5 KB per patch were measured on the 2B shape from 3,520 to 8,160 patches; what comes out is counted with
    the prompt that waits for it.
    """
    vision = architecture.vision
    if flavour == "edge":
        return (vision.intermediate_size + 8 * vision.hidden_size + 2 * vision.patch_dim) * _FLOAT_BYTES
    output = (1 + len(vision.deepstack_layers)) * vision.out_hidden_size // vision.spatial_merge_size**2
    hidden = 12 * vision.intermediate_size + 12 * vision.hidden_size
    return (hidden + 2 * vision.patch_dim + 2 * output) * _FLOAT_BYTES


def _prefill_bytes_per_token(architecture: Architecture, flavour: Flavour) -> int:
    """Activations of the decoder at their widest, and the rows given in.

    The factors are set to what was measured on the 2B shape without an arena: portable 660 KB per token of a chunk of
    2,048, edge 116 KB of one of 1,024.
    """
    text = architecture.text
    num_taps = len(architecture.vision.deepstack_layers)
    rows = 2 * (1 + num_taps) * text.hidden_size
    if flavour == "edge":
        return (text.intermediate_size + 3 * text.hidden_size + rows) * _FLOAT_BYTES
    return (20 * text.intermediate_size + 14 * text.hidden_size + rows) * _FLOAT_BYTES
