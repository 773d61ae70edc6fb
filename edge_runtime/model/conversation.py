"""What a caller says to the model: messages made of text, images and video. Knows nothing of tokens or pixels.

The clients of `edge_runtime.serving` take pictures and whole messages in more forms (`serving/chat.py`), and make these
of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import BadPrompt

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class TextPart:
    """A run of plain text."""

    text: str


@dataclass(frozen=True, slots=True)
class PictureDigest:
    """Stands for a picture that was sent before: the digest, of 16 bytes, of what was sent, shape and all.

    It comes off the wire; callers give pictures. What cannot be answered without the picture is `PicturesNeeded`.
    """

    digest: bytes

    @classmethod
    def of(cls, picture: bytes | NDArray[np.uint8]) -> PictureDigest:
        """That of a file's bytes, or of pixels. docs/protocol.md tells how it is made."""
        kind = f"pixels {picture.shape}" if isinstance(picture, np.ndarray) else "file"
        digest = hashlib.blake2b(kind.encode(), digest_size=16)
        digest.update(np.ascontiguousarray(picture).data if isinstance(picture, np.ndarray) else picture)
        return cls(digest.digest())


Picture = bytes | NDArray[np.uint8] | PictureDigest


@dataclass(frozen=True, eq=False)
class ImagePart:
    """One image: an encoded file (PNG, JPEG, WEBP, BMP, GIF) or decoded pixels, uint8 [H, W, 3] RGB.

    In a message for a client it may be whatever `serving.images.ImageSource` names: a path, a PIL image, grey or RGBA
    pixels, a `data:` URL. The client makes bytes or pixels of it.
    `max_pixels` and `min_pixels` narrow the bundle's own limits for this image only.
    """

    data: Picture
    min_pixels: int | None = None
    max_pixels: int | None = None
    dropped: int = 0
    """In which drop of its session its tokens have left, approximately (docs/sessions.md); 0: they are there."""


@dataclass(frozen=True, eq=False)
class VideoPart:
    """A video as its sampled frames, oldest first, each as in `ImagePart.data`, with times in seconds.

    The frames are used as given; sampling them from a file is `edge_runtime.vision.video`'s work.
    """

    frames: tuple[Picture, ...]
    timestamps_s: tuple[float, ...]
    dropped: int = 0
    """As that of an image."""


Part = TextPart | ImagePart | VideoPart


@dataclass(frozen=True, slots=True, init=False)
class Message:
    """One turn of a chat: `Message("user", "hi")`, or `Message("user", [ImagePart(data), "What is this?"])`."""

    role: Role
    content: tuple[Part, ...]
    dropped: int
    """Of an answer: in which drop the thought before it has left, as `ImagePart.dropped`."""

    def __init__(self, role: Role, content: str | Part | Iterable[str | Part], dropped: int = 0) -> None:
        """A string stands for a `TextPart`, one part for a sequence of one. Raises `BadPrompt` for anything else."""
        parts = [content] if isinstance(content, (str, TextPart, ImagePart, VideoPart)) else content
        if not isinstance(parts, Iterable) or isinstance(parts, (bytes, Mapping)):
            raise BadPrompt(f"the content of a message is {_kind(content)}; wanted a string, or a list of parts")
        object.__setattr__(self, "role", role)
        object.__setattr__(self, "dropped", dropped)
        object.__setattr__(self, "content", tuple(_part(part, number) for number, part in enumerate(parts, 1)))


def _part(part: object, number: int) -> Part:
    if isinstance(part, str):
        return TextPart(part)
    if isinstance(part, (TextPart, ImagePart, VideoPart)):
        return part
    raise BadPrompt(
        f"part {number} of a message is {_kind(part)}; wanted a string, TextPart, ImagePart or VideoPart"
        + ("; a message as a dict is one throughout" if isinstance(part, dict) else "")
    )


def _kind(value: object) -> str:
    return "None" if value is None else f"of type {type(value).__name__}"


def frames_of(part: ImagePart | VideoPart) -> tuple[Picture, ...]:
    """The pictures of a part: an image's one, or a video's frames."""
    return (part.data,) if isinstance(part, ImagePart) else part.frames


def media_parts(messages: tuple[Message, ...]) -> Iterator[tuple[str, ImagePart | VideoPart]]:
    """The images and videos of a chat in prompt order, each with its place in words: "message 3, image 2"."""
    for number, message in enumerate(messages, 1):
        counts = {"image": 0, "video": 0}
        for part in message.content:
            if not isinstance(part, TextPart):
                kind = "image" if isinstance(part, ImagePart) else "video"
                counts[kind] += 1
                yield f"message {number}, {kind} {counts[kind]}", part
