"""A prompt, and how its text and media become one sequence of decoder inputs. Knows no weights.

Making a prompt from messages (template, tokenizer) is not this module's work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from edge_export.families.qwen3_vl.reference.config import ReferenceConfig
from edge_export.families.qwen3_vl.reference.decoder import DecoderInput
from edge_export.families.qwen3_vl.reference.ops import Array
from edge_export.families.qwen3_vl.reference.positions import Ints, mrope_positions
from edge_export.families.qwen3_vl.reference.preprocess import Patches


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids [T] with placeholders expanded, and the media in prompt order (a video is one entry per frame pair)."""

    input_ids: Ints
    media: tuple[Patches, ...] = ()


class Encoder(Protocol):
    """What turns patches and token ids into vectors: the reference, or a bundle under test."""

    def vision(self, patches: Patches) -> tuple[Array, Array]:
        """Image embeddings [N/4, D] and DeepStack features [L, N/4, D]."""

    def embed(self, input_ids: Ints) -> Array:
        """Embedding rows [T, D]."""


def position_ids(config: ReferenceConfig, prompt: Prompt) -> tuple[Ints, int]:
    """M-RoPE positions [3, T] of a prompt, and the rope delta."""
    grids = tuple(patches.grid for patches in prompt.media)
    return mrope_positions(_is_media(config, prompt), grids, config.vision.spatial_merge_size)


def decoder_input(
    encoder: Encoder, config: ReferenceConfig, prompt: Prompt, answer: Sequence[int] = ()
) -> DecoderInput:
    """The prompt and the tokens that follow it as decoder inputs; runs the vision tower on all of the media."""
    is_media = np.append(_is_media(config, prompt), np.zeros(len(answer), np.bool_))  # [T]: an answer holds no media
    inputs_embeds = encoder.embed(np.append(prompt.input_ids, np.array(answer, np.int64)))  # [T, D]
    deepstack = np.zeros((len(config.vision.deepstack_visual_indexes), *inputs_embeds.shape), np.float32)
    if prompt.media:
        encoded = [encoder.vision(patches) for patches in prompt.media]
        inputs_embeds[is_media] = np.concatenate([image_embeds for image_embeds, _ in encoded])
        deepstack[:, is_media] = np.concatenate([taps for _, taps in encoded], axis=1)
    positions, delta = position_ids(config, prompt)
    places = np.arange(len(prompt.input_ids), len(is_media)) + delta
    positions = np.concatenate([positions, np.tile(places, (3, 1))], axis=1)  # [3, T]
    return DecoderInput(inputs_embeds, deepstack, positions)


def _is_media(config: ReferenceConfig, prompt: Prompt) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    return np.isin(prompt.input_ids, [config.image_token_id, config.video_token_id])
