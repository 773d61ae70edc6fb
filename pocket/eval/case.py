"""One question of the evaluation and what is true about its screen. Knows nothing of models."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocket.screens.questions import Turn
from pocket.screens.screen import Screen

Image = NDArray[np.uint8]
Messages = list[dict[str, Any]]
Answer = Callable[[Sequence[Image], Messages], str]
"""A model: images uint8 [height, width, 3] RGB and a chat in Hugging Face's format, to the text of the answer."""


@dataclass(frozen=True, slots=True)
class Case:
    """`turn` asks about `images`, one or two screenshots; `screen` is the truth about the last of them.

    `before` are turns of the same chat that were asked first and answered as they should be.
    """

    name: str
    images: tuple[Image, ...]
    screen: Screen
    turn: Turn
    before: tuple[Turn, ...] = ()

    @property
    def messages(self) -> Messages:
        """The chat to answer; its image parts stand for `images` in order."""
        parts: list[dict[str, str]] = [{"type": "image"} for _ in self.images]
        messages: Messages = []
        for turn in self.before:
            messages.append(_said("user", *parts, {"type": "text", "text": turn.question}))
            messages.append(_said("assistant", {"type": "text", "text": turn.answer}))
            parts = []
        return [*messages, _said("user", *parts, {"type": "text", "text": self.turn.question})]


def _said(role: str, *parts: dict[str, str]) -> dict[str, Any]:
    return {"role": role, "content": list(parts)}
