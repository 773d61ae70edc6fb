"""How much of a Qwen3-VL there is to hold: values in its weights, and bytes of its runs, at their widest.

The factors were measured with ONNX Runtime 1.32 on the CPU, on 2B-shaped int4 bundles (docs/decisions 5, 30 and 31
have the tables).
"""

from __future__ import annotations

from edge_runtime.devices.profile import KVDtype
from edge_runtime.families.qwen3_vl.config import Architecture, TextArchitecture, VisionArchitecture

_FLOAT_BYTES = 4


def decoder_values(text: TextArchitecture) -> int:
    """Values in the matrices of all decoder layers; the LM head is none of them."""
    attention = text.head_dim * (2 * text.num_attention_heads + 2 * text.num_kv_heads)
    return text.num_layers * text.hidden_size * (attention + 3 * text.intermediate_size)


def patch_values(vision: VisionArchitecture) -> int:
    """Values in the matrices that every patch meets: its embedding, and the blocks."""
    block = vision.hidden_size * (4 * vision.hidden_size + 2 * vision.intermediate_size)
    return vision.patch_dim * vision.hidden_size + vision.depth * block


def merger_values(vision: VisionArchitecture) -> int:
    """Values in the matrices that every merged token meets: the last merger, and those of DeepStack."""
    merged = vision.hidden_size * vision.spatial_merge_size**2
    return (1 + len(vision.deepstack_layers)) * merged * (merged + vision.out_hidden_size)


def vector_bytes(architecture: Architecture) -> int:
    """Weights used where they lie in the mapped file: norms, biases, position table."""
    vision, text = architecture.vision, architecture.text
    per_vision_block = 9 * vision.hidden_size + vision.intermediate_size
    per_decoder_layer = 2 * text.hidden_size + 2 * text.head_dim
    table = vision.num_position_embeddings * vision.hidden_size
    values = table + vision.depth * per_vision_block + text.num_layers * per_decoder_layer + text.hidden_size
    return values * _FLOAT_BYTES


def kv_bytes_per_token(text: TextArchitecture, dtype: KVDtype) -> int:
    """A key and a value for every layer and head; int8 ones have a scale each."""
    vector = {"fp32": 4 * text.head_dim, "fp16": 2 * text.head_dim, "int8": text.head_dim + _FLOAT_BYTES}[dtype]
    return 2 * text.num_layers * text.num_kv_heads * vector


def vision_bytes_per_patch(vision: VisionArchitecture, *, is_edge: bool) -> int:
    """Pixels and activations at the widest moment of a vision run; portable with its temporaries and its output.

    Edge: 58.5 KB per patch were measured on the 2B shape from 3,520 to 8,160 patches; what comes out is counted with
    the prompt that waits for it.
    """
    if is_edge:
        return (vision.intermediate_size + 8 * vision.hidden_size + 2 * vision.patch_dim) * _FLOAT_BYTES
    output = (1 + len(vision.deepstack_layers)) * vision.out_hidden_size // vision.spatial_merge_size**2
    hidden = 12 * vision.intermediate_size + 12 * vision.hidden_size
    return (hidden + 2 * vision.patch_dim + 2 * output) * _FLOAT_BYTES


def prefill_bytes_per_token(architecture: Architecture, *, is_edge: bool) -> int:
    """Activations of the decoder at their widest, and the rows given in.

    The factors are set to what was measured on the 2B shape without an arena: portable 660 KB per token of a chunk of
    2,048, edge 116 KB of one of 1,024.
    """
    text = architecture.text
    num_taps = len(architecture.vision.deepstack_layers)
    rows = 2 * (1 + num_taps) * text.hidden_size
    if is_edge:
        return (text.intermediate_size + 3 * text.hidden_size + rows) * _FLOAT_BYTES
    return (20 * text.intermediate_size + 14 * text.hidden_size + rows) * _FLOAT_BYTES
