"""What a caller says to the model: messages made of text, images, video and tool calls. Knows no tokens, no pixels.

The clients of `edge_runtime.serving` take pictures and whole messages in more forms (`serving/chat.py`), and make these
of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import BadPrompt
from edge_runtime.model.tools import MAX_TOOLS, ToolCall

Role = Literal["system", "user", "assistant", "tool"]


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
    tool_calls: tuple[ToolCall, ...]
    """Of an answer: what it calls, after what it says."""
    tool_call_id: str
    """Of a tool's message: the call that it answers; empty: the next one that is not answered."""
    reasoning: str
    """Of an answer: the thought before it. The chat template says whether the model is told of it again."""

    def __init__(
        self,
        role: Role,
        content: str | Part | Iterable[str | Part] | None,
        dropped: int = 0,
        *,
        tool_calls: Iterable[ToolCall] = (),
        tool_call_id: str = "",
        reasoning: str = "",
    ) -> None:
        """A string stands for a `TextPart`, one part for a sequence of one. Raises `BadPrompt` for anything else.

        Only an answer may have `tool_calls`, and then its content may be None, or `reasoning`.
        """
        calls = _calls(role, tool_calls, tool_call_id)
        if not isinstance(reasoning, str) or (reasoning and role != "assistant"):
            raise BadPrompt(f"reasoning is {reasoning!r:.80}; wanted a string, in a message of the role 'assistant'")
        if content is None and calls:
            content = ()
        parts = [content] if isinstance(content, (str, TextPart, ImagePart, VideoPart)) else content
        if not isinstance(parts, Iterable) or isinstance(parts, (bytes, Mapping)):
            raise BadPrompt(f"the content of a message is {_kind(content)}; wanted a string, or a list of parts")
        object.__setattr__(self, "role", role)
        object.__setattr__(self, "dropped", dropped)
        object.__setattr__(self, "content", tuple(_part(part, number) for number, part in enumerate(parts, 1)))
        object.__setattr__(self, "tool_calls", calls)
        object.__setattr__(self, "tool_call_id", tool_call_id)
        object.__setattr__(self, "reasoning", reasoning)


def _calls(role: Role, tool_calls: Iterable[ToolCall], tool_call_id: str) -> tuple[ToolCall, ...]:
    calls = tuple(tool_calls)
    if not all(isinstance(call, ToolCall) for call in calls) or len(calls) > MAX_TOOLS:
        raise BadPrompt(f"the tool_calls of a message must be up to {MAX_TOOLS} ToolCall objects")
    if calls and role != "assistant":
        raise BadPrompt(f"a message of {role!r:.80} has tool_calls; only an answer, of the assistant, calls tools")
    if not isinstance(tool_call_id, str) or (tool_call_id and role != "tool"):
        raise BadPrompt(f"tool_call_id is {tool_call_id!r:.80}; wanted a string, in a message of the role 'tool'")
    return calls


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


def check_tool_messages(messages: Sequence[Message]) -> None:
    """Raise `BadPrompt` for a tool's message that answers no call: such messages follow the answer that calls."""
    pending: list[str] = []
    for number, message in enumerate(messages, 1):
        if message.role != "tool":
            pending = [call.id for call in message.tool_calls]
            continue
        if not pending or (message.tool_call_id and message.tool_call_id not in pending):
            which = f"the call {message.tool_call_id!r:.80}" if message.tool_call_id else "a call"
            raise BadPrompt(
                f"message {number} answers {which}, and the answer before it made no such call, or it is answered "
                "already; send each call's result once, right after the assistant's message with its tool_calls"
            )
        pending.remove(message.tool_call_id or pending[0])


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
