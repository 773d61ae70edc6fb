"""transformers' side: its processor, positions and model on the same messages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import AutoTokenizer, Qwen2VLImageProcessor, Qwen3VLForConditionalGeneration, Qwen3VLProcessor
from transformers.image_processing_utils import BatchFeature
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor
from transformers.video_utils import VideoMetadata

from edge_runtime.model.conversation import ImagePart, Message, Part, TextPart, VideoPart, media_parts
from tests.parity.cases import VIDEO_FPS

IMAGE_LIMITS = {"min_pixels": 65536, "max_pixels": 16777216}
"""What the checkpoint's preprocessor_config.json says: the slow processor of 4.57.6 does not read `size` from it."""


@dataclass(frozen=True)
class Generation:
    """What transformers makes of a chat."""

    input_ids: list[int]
    position_ids: NDArray[np.int64]
    rope_delta: int
    token_ids: list[int]
    logits: NDArray[np.float32]


class PillowVideoProcessor(Qwen3VLVideoProcessor):
    """transformers' video processor where torchvision is missing.

    Sizes, patches and grids are computed by its own `_preprocess`; the two steps it leaves to torchvision are done
    here: resizing with Pillow, as the image processor does, and (x / 255 - mean) / std.
    """

    def resize(self, image: torch.Tensor, size: Any, **_: Any) -> torch.Tensor:
        frames = [
            np.asarray(Image.fromarray(frame).resize((size.width, size.height), Image.Resampling.BICUBIC))
            for frame in image.permute(0, 2, 3, 1).numpy()
        ]
        return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)

    def rescale_and_normalize(self, images: torch.Tensor, *_: Any) -> torch.Tensor:
        mean, std = (torch.tensor(x).view(3, 1, 1) for x in (self.image_mean, self.image_std))
        return (images.float() * self.rescale_factor - mean) / std

    def preprocess(self, videos: list[NDArray[np.uint8]], **_: Any) -> BatchFeature:
        """Videos [frames, H, W, 3] one by one: those of one call need not have one length."""
        done = [self._one(torch.from_numpy(video).permute(0, 3, 1, 2)) for video in videos]
        metadata = [
            VideoMetadata(total_num_frames=len(video), fps=VIDEO_FPS, frames_indices=list(range(len(video))))
            for video in videos
        ]
        return BatchFeature(
            {
                "pixel_values_videos": torch.cat([video["pixel_values_videos"] for video in done]),
                "video_grid_thw": torch.cat([video["video_grid_thw"] for video in done]),
                "video_metadata": metadata,
            }
        )

    def _one(self, video: torch.Tensor) -> BatchFeature:
        size = type(
            "Size", (), {"shortest_edge": self.size["shortest_edge"], "longest_edge": self.size["longest_edge"]}
        )
        features = self._preprocess(
            [video],
            size=size,
            patch_size=self.patch_size,
            temporal_patch_size=self.temporal_patch_size,
            merge_size=self.merge_size,
        )
        features["pixel_values_videos"] = features["pixel_values_videos"].flatten(0, -2)
        return features


class Processor(Qwen3VLProcessor):
    """transformers' processor; without torchvision its class check knows no video processor at all."""

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> type:
        return type(argument)


class Transformers:
    """Model and processor of one checkpoint."""

    def __init__(self, checkpoint: Path) -> None:
        torch.set_num_threads(1)  # tiny models: a second thread only waits
        self.tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        self.image_processor = Qwen2VLImageProcessor.from_pretrained(checkpoint, **IMAGE_LIMITS)
        self.processor = Processor(
            image_processor=self.image_processor,
            tokenizer=self.tokenizer,
            video_processor=PillowVideoProcessor.from_pretrained(checkpoint),
            chat_template=self.tokenizer.chat_template,
        )
        self.model = Qwen3VLForConditionalGeneration.from_pretrained(
            checkpoint, dtype=torch.float32, attn_implementation="eager"
        ).eval()

    def prepare(self, messages: tuple[Message, ...]) -> BatchFeature:
        """Token ids and pixel values of a chat."""
        chat = [{"role": m.role, "content": [as_dict(part) for part in m.content]} for m in messages]
        prompt = self.processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        media = [part for _, part in media_parts(messages)]
        images = [Image.fromarray(part.data) for part in media if isinstance(part, ImagePart)]
        videos = [np.stack(part.frames) for part in media if isinstance(part, VideoPart)]
        return self.processor(text=[prompt], images=images or None, videos=videos or None, return_tensors="pt")

    def generate(self, messages: tuple[Message, ...], num_tokens: int) -> Generation:
        """`num_tokens` greedy tokens; end tokens do not end it."""
        inputs = self.prepare(messages)
        grids = {name: inputs.get(name) for name in ("image_grid_thw", "video_grid_thw")}
        position_ids, rope_deltas = self.model.model.get_rope_index(inputs["input_ids"], **grids)
        outputs = self.model.generate(
            **inputs,
            max_new_tokens=num_tokens,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            eos_token_id=self.model.config.text_config.vocab_size,
            output_logits=True,
            return_dict_in_generate=True,
        )
        return Generation(
            input_ids=inputs["input_ids"][0].tolist(),
            position_ids=position_ids[:, 0].numpy(),
            rope_delta=int(rope_deltas[0]),
            token_ids=outputs.sequences[0, -num_tokens:].tolist(),
            logits=torch.stack(outputs.logits)[:, 0].numpy(),
        )


def as_dict(part: Part) -> dict[str, str]:
    """A part as chat templates see it."""
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    return {"type": "image"} if isinstance(part, ImagePart) else {"type": "video"}
