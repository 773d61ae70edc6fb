"""The messages of a session: its turns, what they hold, and what a request adds to them. Knows no queue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from edge_runtime.engine.picture_cache import is_fixed
from edge_runtime.errors import BadParameter, PicturesNeeded
from edge_runtime.model.conversation import (
    ImagePart,
    Message,
    Part,
    Picture,
    PictureDigest,
    TextPart,
    VideoPart,
    frames_of,
)

_MESSAGE_BYTES, _TEXT_BYTES, _PICTURE_BYTES = 512, 192, 1024
"""What a message, a text and a picture take beside what they say and show, roughly."""


def turn_starts(messages: Sequence[Message]) -> list[int]:
    """Where each turn begins: behind the system's words, and behind every answer."""
    starts: list[int] = []
    for index, message in enumerate(messages):
        follows = index == 0 or messages[index - 1].role in ("system", "assistant")
        if message.role != "system" and (follows or not starts):
            starts.append(index)
    return starts


def message_bytes(message: Message) -> int:
    """What a message holds."""
    return _MESSAGE_BYTES + sum(_part_bytes(part) for part in message.content)


def _part_bytes(part: Part) -> int:
    if isinstance(part, TextPart):
        width = 1 if part.text.isascii() else 2 if max(part.text) <= "\uffff" else 4  # as Python stores it
        return _TEXT_BYTES + width * len(part.text)
    return sum(_PICTURE_BYTES + _frame_bytes(frame) for frame in _frames(part))


def _frame_bytes(frame: Picture) -> int:
    if isinstance(frame, PictureDigest):
        return len(frame.digest)
    return frame.nbytes if isinstance(frame, np.ndarray) else len(frame)


def owned(message: Message) -> Message:
    """The message with copies of the pixels that its caller could change; itself where there are none.

    Raises `PicturesNeeded` for pictures by digest.
    """
    frames = [frame for part in message.content for frame in _frames(part)]
    digests = [frame.digest for frame in frames if isinstance(frame, PictureDigest)]
    if digests:
        raise PicturesNeeded.of(digests)  # a session keeps its pictures: what was computed of them may go
    if all(map(is_fixed, frames)):
        return message
    return Message(message.role, tuple(map(_own_part, message.content)), message.dropped)


def _frames(part: Part) -> tuple[Picture, ...]:
    return () if isinstance(part, TextPart) else frames_of(part)


def _own_part(part: Part) -> Part:
    if isinstance(part, ImagePart):
        return replace(part, data=_own_frame(part.data))
    if isinstance(part, VideoPart):
        return replace(part, frames=tuple(map(_own_frame, part.frames)))
    return part


def _own_frame(frame: Picture) -> Picture:
    if not isinstance(frame, np.ndarray) or is_fixed(frame):
        return frame
    return np.frombuffer(frame.tobytes(), np.uint8).reshape(frame.shape)


def before(messages: tuple[Message, ...], turn: int | None) -> tuple[Message, ...]:
    """The messages before a turn; None: all. Raises `BadParameter` for a turn that is not there."""
    return messages if turn is None else messages[: _start_of(messages, turn)]


def _start_of(messages: tuple[Message, ...], turn: int) -> int:
    starts = turn_starts(messages)
    if not -len(starts) <= turn < len(starts):
        raise BadParameter(
            f"the session has {len(starts)} turns, there is no turn {turn}; they count from 0, and -1 is the last"
        )
    return starts[turn]


def asked_in(messages: tuple[Message, ...], turn: int | None, new: tuple[Message, ...]) -> tuple[Message, ...]:
    """What a request says in all: the past, and `new` behind it, or in place of a turn and what follows it."""
    if new:
        return (*before(messages, turn), *new)
    start = _start_of(messages, -1 if turn is None else turn)
    stop = next((at for at in range(start, len(messages)) if messages[at].role == "assistant"), len(messages))
    if stop == start:
        raise BadParameter("that turn has no question to answer anew; send messages")
    return messages[:stop]
