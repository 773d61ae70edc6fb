"""The chats of the parity suite, as messages of our runtime. Pixels are random but fixed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edge_runtime.model.conversation import ImagePart, Message, Part, TextPart, VideoPart

VIDEO_FPS = 2.0


@dataclass(frozen=True)
class Case:
    """A chat and the checkpoint it is tried on."""

    name: str
    variant: str
    messages: tuple[Message, ...]


def image(seed: int, height: int, width: int) -> ImagePart:
    """An image of random 8 x 8 blocks: enough structure that resizing matters."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    return ImagePart(np.ascontiguousarray(blocks.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]))


def video(seed: int, num_frames: int, height: int, width: int) -> VideoPart:
    """Random frames, `VIDEO_FPS` to the second."""
    frames = tuple(image(1000 * seed + i, height, width).data for i in range(num_frames))
    return VideoPart(frames, tuple(i / VIDEO_FPS for i in range(num_frames)))


def user(*parts: Part | str) -> Message:
    """A user's turn; plain strings are text parts."""
    return Message("user", tuple(TextPart(part) if isinstance(part, str) else part for part in parts))


def text(role: str, content: str) -> Message:
    """A turn of text alone."""
    return Message(role, (TextPart(content),))  # type: ignore[arg-type]


QUESTION = user(image(1, 240, 320), "What is on the screen?")

CASES = (
    Case("text only", "tied", (text("system", "You help."), user("Wie geht's? 你好, мир! 🙂\n\n  two  spaces"))),
    Case("one image", "tied", (QUESTION,)),
    Case("wide image (1:20)", "tied", (user(image(2, 60, 1200), "Read this line."),)),
    Case("tall image, odd sides", "tied", (user("Look:", image(3, 701, 233)),)),
    Case("very small image", "tied", (user(image(4, 5, 7), "And this?"),)),
    Case(
        "two images around text",
        "tied",
        (user("Before ", image(5, 300, 200), " and after ", image(6, 128, 512), " - what changed?"),),
    ),
    Case(
        "three turns",
        "tied",
        (
            text("system", "You are a kiosk."),
            user(image(7, 256, 256), "Hello?"),
            text("assistant", "Welcome. What do you want?"),
            user("A ticket, and what is this:", image(8, 320, 180)),
            text("assistant", "A map."),
            user("Thanks. Where am I?"),
        ),
    ),
    Case("video of 2 frames", "tied", (user(video(1, 2, 120, 160), "What moves?"),)),
    Case("video of 4 frames", "tied", (user(video(2, 4, 97, 131), "What moves?"),)),
    Case("video of 7 frames", "tied", (user("Watch. ", video(3, 7, 64, 96), " Then?"),)),
    Case("video and image", "tied", (user(video(4, 3, 64, 64), image(9, 200, 300), "Same place?"),)),
    Case("one image", "untied", (QUESTION,)),
    Case("one image", "one tap", (QUESTION,)),
    Case("one image", "two taps", (QUESTION,)),
    Case("one image", "gqa 1", (QUESTION,)),
    Case("one image", "gqa 4", (QUESTION,)),
    Case("one image", "exact gelu", (QUESTION,)),
    Case("one image", "small position table", (QUESTION,)),
)
