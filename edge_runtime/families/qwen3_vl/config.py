"""The sizes of a Qwen3-VL model: what a manifest says of its architecture, and what that may be. Knows no graphs."""

from __future__ import annotations

import math
from typing import Literal

from edge_runtime.families.record import Record, check_number, check_whole, refuse

_MAX_LAYERS, _MAX_WIDTH, _MAX_VOCAB, _MAX_TOKENS = 1024, 2**20, 2**24, 2**31 - 1
_KERNEL_HEAD_DIM = 8, 256
"""Head widths of our own attention operators are multiples of the one up to the other (docs/kernels.md)."""


class VisionArchitecture(Record, frozen=True, kw_only=True):
    """The vision tower (`vision_config` of the checkpoint)."""

    depth: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    in_channels: int
    patch_size: int
    temporal_patch_size: int
    spatial_merge_size: int
    num_position_embeddings: int
    out_hidden_size: int
    hidden_act: Literal["gelu", "gelu_pytorch_tanh"]
    deepstack_layers: tuple[int, ...]
    """Vision blocks whose output is tapped; tap i is added to the output of decoder layer i at image positions."""

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_heads

    @property
    def patch_dim(self) -> int:
        """Values in one row of `pixel_values`: channels x temporal patch x patch x patch."""
        return self.in_channels * self.temporal_patch_size * self.patch_size**2


class TextArchitecture(Record, frozen=True, kw_only=True):
    """The decoder (`text_config` of the checkpoint)."""

    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    rms_norm_eps: float
    rope_theta: float
    mrope_section: tuple[int, int, int]
    max_position_embeddings: int
    tie_word_embeddings: bool


class Architecture(Record, frozen=True, kw_only=True):
    """Sizes of the model."""

    model_type: Literal["qwen3_vl"]
    vision: VisionArchitecture
    text: TextArchitecture


def vision_segments(vision: VisionArchitecture) -> tuple[dict[str, int], ...]:
    """The segments of the vision graph in order: the outputs of each, by name, with the width of their rows.

    The last output of a segment that ends a tapped block is that block's DeepStack features.
    """
    hidden, taps = vision.hidden_size, vision.deepstack_layers
    segments = []
    for index in range(vision.depth + 1):
        outputs = {f"stream.{index}": hidden, f"qkv.{index}": 3 * hidden}
        if index == vision.depth:
            outputs = {"image_embeds": vision.out_hidden_size}
        if index - 1 in taps:
            outputs[f"deepstack.{taps.index(index - 1)}"] = vision.out_hidden_size
        segments.append(outputs)
    return tuple(segments)


def check_architecture(architecture: Architecture) -> None:
    """All of it. Raises `BundleError`."""
    text, vision = architecture.text, architecture.vision
    _check_vision(vision)
    _check_text(text)
    if vision.out_hidden_size != text.hidden_size:
        refuse("architecture.vision.out_hidden_size", vision.out_hidden_size, f"text.hidden_size, {text.hidden_size}")
    taps = vision.deepstack_layers
    if list(taps) != sorted(set(taps)) or not all(0 <= tap < vision.depth for tap in taps):
        refuse("architecture.vision.deepstack_layers", list(taps), f"ascending blocks from 0 to {vision.depth - 1}")
    if len(taps) > text.num_layers:
        refuse("architecture.vision.deepstack_layers", list(taps), f"at most {text.num_layers}, one a decoder layer")


def check_suits_kernels(architecture: Architecture) -> None:
    """Our own operators take its heads. Raises `BundleError`."""
    step, largest = _KERNEL_HEAD_DIM
    for name, head_dim in (("text", architecture.text.head_dim), ("vision", architecture.vision.head_dim)):
        if head_dim % step or head_dim > largest:
            refuse(f"head_dim of architecture.{name}", head_dim, f"a multiple of {step} up to {largest}")


def _check_vision(vision: VisionArchitecture) -> None:
    where = "architecture.vision"
    check_whole(f"{where}.depth", vision.depth, 1, _MAX_LAYERS)
    for name in ("hidden_size", "intermediate_size", "num_heads", "out_hidden_size", "num_position_embeddings"):
        check_whole(f"{where}.{name}", getattr(vision, name), 1, _MAX_WIDTH)
    check_whole(f"{where}.in_channels", vision.in_channels, 3, 3)
    check_whole(f"{where}.patch_size", vision.patch_size, 1, 256)
    check_whole(f"{where}.temporal_patch_size", vision.temporal_patch_size, 1, 16)
    check_whole(f"{where}.spatial_merge_size", vision.spatial_merge_size, 1, 16)
    if vision.hidden_size % vision.num_heads or vision.head_dim % 4:
        refuse(f"{where}.num_heads", vision.num_heads, "such that hidden_size / num_heads is a multiple of 4")
    if math.isqrt(vision.num_position_embeddings) ** 2 != vision.num_position_embeddings:
        refuse(f"{where}.num_position_embeddings", vision.num_position_embeddings, "a square")


def _check_text(text: TextArchitecture) -> None:
    where = "architecture.text"
    check_whole(f"{where}.num_layers", text.num_layers, 1, _MAX_LAYERS)
    for name in ("hidden_size", "intermediate_size", "num_attention_heads", "num_kv_heads"):
        check_whole(f"{where}.{name}", getattr(text, name), 1, _MAX_WIDTH)
    check_whole(f"{where}.head_dim", text.head_dim, 2, _MAX_WIDTH)
    check_whole(f"{where}.vocab_size", text.vocab_size, 1, _MAX_VOCAB)
    check_whole(f"{where}.max_position_embeddings", text.max_position_embeddings, 1, _MAX_TOKENS)
    check_number(f"{where}.rms_norm_eps", text.rms_norm_eps, 0.0, 1.0)
    check_number(f"{where}.rope_theta", text.rope_theta, 1.0, 1e12)
    if text.num_attention_heads % text.num_kv_heads:
        refuse(f"{where}.num_kv_heads", text.num_kv_heads, f"a divisor of {text.num_attention_heads} attention heads")
    if text.head_dim % 2 or sum(text.mrope_section) != text.head_dim // 2 or min(text.mrope_section) < 0:
        refuse(f"{where}.mrope_section", list(text.mrope_section), f"parts of head_dim / 2 = {text.head_dim / 2:g}")
