"""The facts of a checkpoint's `config.json` that the forward pass needs. Knows no weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class VisionConfig:
    """The vision tower; names as in `vision_config`."""

    depth: int
    hidden_size: int
    num_heads: int
    hidden_act: str
    patch_size: int
    temporal_patch_size: int
    spatial_merge_size: int
    num_position_embeddings: int
    deepstack_visual_indexes: tuple[int, ...]

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_heads


@dataclass(frozen=True, slots=True)
class TextConfig:
    """The decoder; names as in `text_config`."""

    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    mrope_section: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class ReferenceConfig:
    """The whole model."""

    vision: VisionConfig
    text: TextConfig
    image_token_id: int
    video_token_id: int


def read_config(checkpoint: Path) -> ReferenceConfig:
    """Read `config.json`, written by transformers 4.57 (`rope_scaling`) or 5.x (`rope_parameters`).

    Raises `KeyError` for a missing field: nothing is guessed.
    """
    raw: dict[str, Any] = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    vision, text = raw["vision_config"], raw["text_config"]
    rope = text.get("rope_parameters") or text["rope_scaling"]
    return ReferenceConfig(
        vision=VisionConfig(
            depth=vision["depth"],
            hidden_size=vision["hidden_size"],
            num_heads=vision["num_heads"],
            hidden_act=vision["hidden_act"],
            patch_size=vision["patch_size"],
            temporal_patch_size=vision["temporal_patch_size"],
            spatial_merge_size=vision["spatial_merge_size"],
            num_position_embeddings=vision["num_position_embeddings"],
            deepstack_visual_indexes=tuple(vision["deepstack_visual_indexes"]),
        ),
        text=TextConfig(
            num_hidden_layers=text["num_hidden_layers"],
            num_attention_heads=text["num_attention_heads"],
            num_key_value_heads=text["num_key_value_heads"],
            head_dim=text["head_dim"],
            rms_norm_eps=text["rms_norm_eps"],
            rope_theta=float(text["rope_theta"] if "rope_theta" in text else rope["rope_theta"]),
            mrope_section=tuple(rope["mrope_section"]),
        ),
        image_token_id=raw["image_token_id"],
        video_token_id=raw["video_token_id"],
    )
