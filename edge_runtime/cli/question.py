"""What `ask` asks: from the command's options to messages whose pictures fit whoever answers.

And a word where they had to be made smaller. Knows not who answers, only what that one says of itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from edge_runtime.engine.request import DEFAULT_MAX_TOKENS, GenerationOptions
from edge_runtime.errors import BadImage, BadPrompt
from edge_runtime.families.qwen3_vl.processor import PixelRange, image_target_size
from edge_runtime.model.conversation import ImagePart, Message, Part, TextPart
from edge_runtime.serving.images import image_part
from edge_runtime.serving.messages import ModelInfo, VideoSampling
from edge_runtime.vision.image import ImageLimits, image_size
from edge_runtime.vision.video import Clip, sample_clip, silence_decoder

Say = Callable[[str], None]
"""Takes a remark for the person who asks."""

_TEMPLATE_TOKENS = 64
_NO_LIMIT = 1 << 62


@dataclass(frozen=True, slots=True)
class Question:
    """What the command line asks."""

    prompt: str
    images: tuple[Path, ...]
    video: Path | None
    system: str | None
    options: GenerationOptions
    max_pixels: int | None = None
    """Pictures are made smaller than this, whatever the one who answers could take."""

    @property
    def has_pictures(self) -> bool:
        """Whether it is about images or a video."""
        return bool(self.images) or self.video is not None

    def messages(self, served: ModelInfo | None, say: Say | None) -> tuple[Message, ...]:
        """The chat: system message; images, video, prompt. Raises `BadImage` for files that cannot be read.

        `served` may be None where nobody needs to be told of shrunk images, and there is no video; `say`, to be told
        nothing. Raises `BadPrompt` if there is nothing to answer.
        """
        if not self.prompt.strip() and not self.has_pictures:
            raise BadPrompt("the question is empty; write one, or - to read it from standard input")
        images = [image_part(path, max_pixels=self.max_pixels) for path in self.images]
        parts: list[Part] = [*images]
        remarks: list[str] = []
        if served is not None:
            sizes = [_image_sizes(part, served, self.max_pixels) for part in images]
            for path, (source, target, natural) in zip(self.images, sizes, strict=True):
                if target != natural:
                    remarks.append(f"{path.name}: shrunk from {_size(source)} to {_size(target)}")
            if self.video is not None:
                silence_decoder()
                limits = self._clip_limits(served, [target for _, target, _ in sizes])
                clip = sample_clip(self.video, limits, limits)
                remarks += _remarks(clip, self.video, served)
                parts.append(clip.part)
        if say is not None:
            for remark in remarks:
                say(remark)
        question = Message("user", (*parts, TextPart(self.prompt)))
        return (question,) if self.system is None else (Message("system", (TextPart(self.system),)), question)

    def _clip_limits(self, served: ModelInfo, images: list[tuple[int, int]]) -> VideoSampling:
        """What the clip may take, in a context that also holds the words, the images, and the answer."""
        video = served.video
        if self.max_pixels is not None:
            cap = min(self.max_pixels, video.max_frame_pixels or self.max_pixels)
            video = msgspec.structs.replace(video, max_frame_pixels=cap)
        if video.max_tokens is None:
            return video
        cell = (video.patch_size * video.spatial_merge_size) ** 2
        image_tokens = sum(math.prod(size) // cell for size in images)
        # A token has a byte at least. Whether it all fits is for the engine to say; the clip gets a quarter anyhow.
        words = sum(len(text.encode("utf-8", "replace")) for text in (self.prompt, self.system or ""))
        rest = _TEMPLATE_TOKENS + words + image_tokens + (self.options.max_tokens or DEFAULT_MAX_TOKENS)
        left = max(served.max_context - rest, served.max_context // 4)
        return msgspec.structs.replace(video, max_tokens=min(video.max_tokens, left))


_Size = tuple[int, int]


def _image_sizes(part: ImagePart, served: ModelInfo, max_pixels: int | None) -> tuple[_Size, _Size, _Size]:
    """(height, width) of an image as it is, as the model gets it, and as it would if pixels were not counted."""
    factor = served.video.patch_size * served.video.spatial_merge_size
    try:
        source = image_size(part.data, ImageLimits())
        natural = image_target_size(*source, factor, PixelRange(1, _NO_LIMIT))
    except BadImage:  # whoever decodes it will say so
        return (0, 0), (0, 0), (0, 0)
    cap = served.max_pixels if max_pixels is None else min(served.max_pixels, max_pixels)
    return source, image_target_size(*source, factor, PixelRange(1, cap)), natural


def _remarks(clip: Clip, path: Path, served: ModelInfo) -> list[str]:
    """What became of a clip, where that is not what anybody would expect."""
    remarks, num_taken = [], len(clip.part.frames)
    factor = served.video.patch_size * served.video.spatial_merge_size
    natural = image_target_size(*clip.source_size, factor, PixelRange(1, _NO_LIMIT))
    shrunk = math.prod(clip.size) < math.prod(natural)
    if clip.lost_s:
        remarks.append(f"{path.name}: its last {clip.lost_s:.1f} s give no frames; what comes before is used")
    if clip.num_fitting < clip.num_wanted:
        step_s = float(np.median(np.diff(clip.part.timestamps_s)))
        of_size = f"{_size(clip.size)} (from {_size(clip.source_size)})" if shrunk else _size(clip.size)
        remarks.append(
            f"{path.name}: the model would take {clip.num_wanted:,} frames; {num_taken:,} of {of_size} fit a context "
            f"of {served.max_context:,}: sampled every {step_s:.1f} s"
        )
    elif shrunk:
        remarks.append(f"{path.name}: {num_taken:,} frames shrunk from {_size(clip.source_size)} to {_size(clip.size)}")
    return remarks


def _size(height_width: _Size) -> str:
    return f"{height_width[1]}x{height_width[0]}"
