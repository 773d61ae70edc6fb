"""What is asked: prompts of a known length and made-up screenshots, no two alike, so that no cache can help."""

from __future__ import annotations

import math
import random
import re
import sys
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import BadParameter
from edge_runtime.families.qwen3_vl.processor import PixelRange, image_target_size
from edge_runtime.model.conversation import ImagePart, Message, TextPart
from edge_runtime.model.manifest import Manifest

QUESTION_TOKENS = 20
DECODE_TOKENS = 32


@dataclass(frozen=True, slots=True)
class TextQuestion:
    """A prompt of about `prompt_tokens` tokens."""

    prompt_tokens: int

    @property
    def name(self) -> str:
        """What it is, in words."""
        return f"prompt of {self.prompt_tokens:,} tokens"

    def messages(self, seed: int) -> tuple[Message, ...]:
        """The chat; every seed has its own digits."""
        return (Message("user", (TextPart(digits(self.prompt_tokens, seed)),)),)


@dataclass(frozen=True, slots=True)
class ImageQuestion:
    """A screenshot of that size and a question of `QUESTION_TOKENS` tokens about it."""

    width: int
    height: int

    @property
    def name(self) -> str:
        """What it is, in words."""
        return f"image {self.width}x{self.height}"

    def pixels(self, manifest: Manifest) -> int:
        """How many pixels the model is given of it, if nothing but the bundle limits them."""
        vision, limits = manifest.architecture.vision, manifest.image_processor
        allowed = PixelRange(limits.min_pixels, limits.max_pixels)
        factor = vision.patch_size * vision.spatial_merge_size
        return math.prod(image_target_size(self.height, self.width, factor, allowed))

    def shrunk_by(self, manifest: Manifest) -> bool:
        """Whether the bundle's own limit makes it smaller: what is measured then is not what its name says."""
        vision, limits = manifest.architecture.vision, manifest.image_processor
        factor = vision.patch_size * vision.spatial_merge_size
        natural = image_target_size(self.height, self.width, factor, PixelRange(1, sys.maxsize))
        return math.prod(natural) > limits.max_pixels

    def messages(self, seed: int) -> tuple[Message, ...]:
        """The chat; every seed has its own picture."""
        image = ImagePart(screenshot(self.width, self.height, seed))
        return (Message("user", (image, TextPart(digits(QUESTION_TOKENS, seed)))),)


@dataclass(frozen=True, slots=True)
class Workload:
    """What a benchmark asks, and how often."""

    repeats: int = 3
    texts: tuple[TextQuestion, ...] = (TextQuestion(128), TextQuestion(1024), TextQuestion(4096))
    decoded_after: frozenset[int] = frozenset({128, 4096})
    """Prompt lengths after which decoding is measured too."""
    images: tuple[ImageQuestion, ...] = (ImageQuestion(640, 480), ImageQuestion(1280, 720), ImageQuestion(1920, 1080))


def parse_screens(sizes: str) -> tuple[ImageQuestion, ...]:
    """Questions about screenshots of the sizes in a text such as "640x480,3840x2160". Raises `BadParameter`."""
    questions = []
    for size in sizes.split(","):
        if not (match := re.fullmatch(r"\s*(\d{2,5})x(\d{2,5})\s*", size)):
            raise BadParameter(f"{size!r} is not a screen size; write WIDTHxHEIGHT in pixels, such as 1280x720")
        questions.append(ImageQuestion(int(match[1]), int(match[2])))
    return tuple(questions)


def digits(count: int, seed: int) -> str:
    """A text of exactly `count` tokens, for Qwen's tokenizers never join digits."""
    return "".join(random.Random(seed * 1_000_003 + count).choices("0123456789", k=count))  # noqa: S311 - no secret


def screenshot(width: int, height: int, seed: int) -> NDArray[np.uint8]:
    """A made-up desktop, uint8 [height, width, 3]: panels and lines of text; `seed` moves them."""
    rng = np.random.default_rng(seed)
    image = np.full((height, width, 3), rng.integers(200, 256, 3), dtype=np.uint8)
    for _ in range(12):
        x, y = int(rng.integers(0, width)), int(rng.integers(0, height))
        colour = tuple(int(value) for value in rng.integers(40, 250, 3))
        cv2.rectangle(image, (x, y), (x + width // 5, y + height // 6), colour, thickness=-1)
        label = "".join(rng.choice(list("abcdefghijklmnop "), 24))
        cv2.putText(image, label, (x + 6, y + 24), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (20, 20, 20), 1, cv2.LINE_AA)
    return image
