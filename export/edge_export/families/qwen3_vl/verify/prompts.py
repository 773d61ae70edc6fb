"""The fixed prompts of the parity gate: text, images of odd shapes, video. The same in every run for every model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from edge_export.families.qwen3_vl.reference.preprocess import Patches, PatchLayout, image_patches, video_patches
from edge_export.families.qwen3_vl.reference.prompt import Prompt
from edge_runtime.model.manifest import Manifest

LONG_TEXT = "A small kiosk shows a list of trains. The first one leaves at 9:41 for Køln, the second at 10:05. " * 3


@dataclass(frozen=True, slots=True)
class GatePrompt:
    """A prompt with a name for the report."""

    name: str
    prompt: Prompt


def gate_prompts(tokenizer: Tokenizer, manifest: Manifest) -> list[GatePrompt]:
    """Text only; one wide image; two images around text, one of them tiny; four video frames of an odd size."""
    images = _layout(manifest, manifest.image_processor.min_pixels, manifest.image_processor.max_pixels)
    video = _layout(manifest, manifest.video_processor.min_pixels, manifest.video_processor.max_pixels)
    wide, tiny, tall = (
        image_patches(_picture(i, *size), images) for i, size in enumerate([(173, 411), (9, 14), (390, 201)])
    )
    clip = video_patches([_picture(10 + i, 97, 131) for i in range(4)], video)

    def prompt(text: str, *media: Patches) -> Prompt:
        chat = f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
        encoded = tokenizer.encode(chat, add_special_tokens=False).ids
        return Prompt(np.array(encoded, np.int64), media)

    def image(patches: Patches, pad: str = "image") -> str:
        count = patches.grid.height * patches.grid.width // images.merge_size**2
        return f"<|vision_start|>{f'<|{pad}_pad|>' * count}<|vision_end|>"

    frames = "".join(f"<{0.2 + second:.1f} seconds>{image(pair, 'video')}" for second, pair in enumerate(clip))
    return [
        GatePrompt("text", prompt(f"{LONG_TEXT}When does the second train leave?")),
        GatePrompt("wide image", prompt(f"{image(wide)}What is on this screen?", wide)),
        GatePrompt("two images", prompt(f"{image(tall)}was before, and after:{image(tiny)} What changed?", tall, tiny)),
        GatePrompt("video", prompt(f"{frames}What happens?", *clip)),
    ]


def _layout(manifest: Manifest, min_pixels: int, max_pixels: int) -> PatchLayout:
    vision = manifest.architecture.vision
    return PatchLayout(min_pixels, max_pixels, vision.patch_size, vision.temporal_patch_size, vision.spatial_merge_size)


def _picture(seed: int, height: int, width: int) -> NDArray[np.uint8]:
    """Coarse random blocks with noise over them: low and high frequencies, as a real picture has."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (height // 16 + 1, width // 16 + 1, 3))
    smooth = blocks.repeat(16, axis=0).repeat(16, axis=1)[:height, :width]
    return np.clip(smooth + rng.normal(0, 12, smooth.shape), 0, 255).astype(np.uint8)
