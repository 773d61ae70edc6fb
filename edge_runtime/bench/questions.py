"""What is asked: prompts of a known length and made-up screenshots, no two alike, so that no cache can help."""

from __future__ import annotations

import random
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_runtime.model.conversation import ImagePart, Message, TextPart

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
