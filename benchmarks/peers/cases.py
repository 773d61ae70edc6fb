"""The cases: prompts and images, the same for every contender and different in every round. Knows no contender."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2

from edge_runtime.bench.questions import QUESTION_TOKENS, digits, screenshot

MAX_CONTEXT = 4608
"""Room for the longest prompt, a chat template around it, and the answer."""


@dataclass(frozen=True, slots=True)
class TextCase:
    """Prefill of `prompt_tokens`, then decode of `new_tokens` after them."""

    prompt_tokens: int
    new_tokens: int

    @property
    def name(self) -> str:
        """What results are filed under."""
        return f"text {self.prompt_tokens}"

    def request(self, seed: int, folder: Path) -> dict[str, object]:  # noqa: ARG002 - as ImageCase
        """The request as sent to a worker."""
        return {"kind": "text", "prompt": digits(self.prompt_tokens, seed), "max_tokens": self.new_tokens + 1}


@dataclass(frozen=True, slots=True)
class ImageCase:
    """A question of `QUESTION_TOKENS` tokens about an image, up to the first token of the answer."""

    width: int
    height: int

    @property
    def name(self) -> str:
        """What results are filed under."""
        return f"image {self.width}x{self.height}"

    def request(self, seed: int, folder: Path) -> dict[str, object]:
        """The request as sent to a worker; the image is written to `folder`."""
        path = folder / f"{self.width}x{self.height}-{seed}.png"
        if not path.exists():
            cv2.imwrite(str(path), screenshot(self.width, self.height, seed))
        return {"kind": "image", "image": str(path), "prompt": digits(QUESTION_TOKENS, seed)}


Case = TextCase | ImageCase

WARM_UP: tuple[Case, ...] = (TextCase(64, 8), ImageCase(256, 256))
"""Not reported: first runs allocate and compile."""
CASES: tuple[Case, ...] = (
    TextCase(128, 32),
    TextCase(1024, 8),
    ImageCase(640, 480),
    ImageCase(1280, 720),
    TextCase(4096, 32),
)
"""Long contexts last: the memory they take stays with some contenders."""
