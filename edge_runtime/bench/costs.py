"""How many bytes and operations a piece of work cannot do without, out of the manifest alone. Knows no clock."""

from __future__ import annotations

from edge_runtime.families.qwen3_vl.footprint import decoder_values, merger_values, patch_values
from edge_runtime.model.manifest import DECODER_WEIGHTS, Manifest


def decode_bytes(manifest: Manifest, context_tokens: int, kv_bytes_per_token: float) -> float:
    """Bytes read for one token of an answer: every decoder weight once, and the keys and values of the context."""
    weights = manifest.files[DECODER_WEIGHTS].size_bytes
    return weights + context_tokens * kv_bytes_per_token


def prefill_ops(manifest: Manifest, prompt_tokens: int) -> float:
    """Operations (a multiply and an add are two) of a prompt: matrices, causal attention, one row of logits."""
    text = manifest.architecture.text
    # Scores and weighted values, each over half the square of the prompt.
    attention = 2 * text.num_layers * text.num_attention_heads * text.head_dim * prompt_tokens**2
    return 2.0 * (prompt_tokens * decoder_values(text) + text.vocab_size * text.hidden_size) + attention


def vision_ops(manifest: Manifest, image_tokens: int) -> float:
    """Operations of the vision tower on one image: patches, blocks with full attention, mergers."""
    vision = manifest.architecture.vision
    patches = image_tokens * vision.spatial_merge_size**2
    attention = 4 * vision.depth * vision.hidden_size * patches**2
    return 2.0 * (patches * patch_values(vision) + image_tokens * merger_values(vision)) + attention
