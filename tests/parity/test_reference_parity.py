"""The numpy reference is the model: preprocessing, positions and logits as transformers computes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edge_export.families.qwen3_vl.reference.config import read_config
from edge_export.families.qwen3_vl.reference.model import NumpyReference
from edge_export.families.qwen3_vl.reference.preprocess import Patches, PatchLayout, image_patches, video_patches
from edge_export.families.qwen3_vl.reference.prompt import Prompt, position_ids
from edge_runtime.model.conversation import ImagePart, Message, media_parts
from tests.parity.cases import CASES, Case
from tests.parity.theirs import Transformers

pytestmark = pytest.mark.parity

IMAGE_LAYOUT = PatchLayout(min_pixels=65536, max_pixels=16777216)
VIDEO_LAYOUT = PatchLayout(min_pixels=4096, max_pixels=25165824)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.name} / {case.variant}")
def test_reference_equals_transformers(
    case: Case, theirs_of: Callable[[str], Transformers], checkpoint_of: Callable[[str], Path]
) -> None:
    expected = theirs_of(case.variant).generate(case.messages, num_tokens=8)
    prompt = Prompt(np.array(expected.input_ids), reference_media(case.messages))
    positions, rope_delta = position_ids(read_config(checkpoint_of(case.variant)), prompt)
    logits = NumpyReference(checkpoint_of(case.variant)).logits(prompt, expected.token_ids[:-1])

    np.testing.assert_array_equal(positions, expected.position_ids)
    assert rope_delta == expected.rope_delta
    np.testing.assert_allclose(logits, expected.logits, atol=2e-4)


@pytest.mark.parametrize("case", CASES[:11], ids=lambda case: case.name)
def test_reference_patches_equal_transformers(case: Case, theirs_of: Callable[[str], Transformers]) -> None:
    inputs = theirs_of(case.variant).prepare(case.messages)
    images = [part for _, part in media_parts(case.messages) if isinstance(part, ImagePart)]
    found = {
        "pixel_values": [image_patches(part.data, IMAGE_LAYOUT).pixel_values for part in images],
        "pixel_values_videos": [
            patches.pixel_values
            for _, part in media_parts(case.messages)
            if not isinstance(part, ImagePart)
            for patches in video_patches(part.frames, VIDEO_LAYOUT)
        ],
    }
    for name, values in found.items():
        assert (name in inputs) == bool(values)
        if values:
            np.testing.assert_allclose(np.concatenate(values), inputs[name].numpy(), atol=1e-6)


def reference_media(messages: tuple[Message, ...]) -> tuple[Patches, ...]:
    """The media of a chat in prompt order, preprocessed by the reference."""
    media: list[Patches] = []
    for _, part in media_parts(messages):
        if isinstance(part, ImagePart):
            media.append(image_patches(part.data, IMAGE_LAYOUT))
        else:
            media += video_patches(part.frames, VIDEO_LAYOUT)
    return tuple(media)
