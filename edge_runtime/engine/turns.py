"""The messages of a session: its turns, what they hold, and what a request adds to them. Knows no queue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from edge_runtime.engine.picture_cache import PartDigests, is_fixed
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
from edge_runtime.model.tools import ToolDefinition

_MESSAGE_BYTES, _TEXT_BYTES, _PICTURE_BYTES = 512, 192, 1024
"""What a message, a text and a picture take beside what they say and show, roughly."""


def turn_starts(messages: Sequence[Message]) -> list[int]:
    """Where each turn begins: behind the system's words, and behind every answer.

    What a tool says begins none: with the answer that called it, and the next one, it belongs to the turn's question.
    """
    starts: list[int] = []
    for index, message in enumerate(messages):
        follows = index == 0 or messages[index - 1].role in ("system", "assistant")
        if message.role not in ("system", "tool") and (follows or not starts):
            starts.append(index)
    return starts


def held_bytes(one: Message | ToolDefinition) -> int:
    """What a message, or a definition, holds."""
    if isinstance(one, ToolDefinition):
        return sum(map(_text_bytes, (one.name, one.description, one.parameters)))
    texts = [text for call in one.tool_calls for text in (call.id, call.name, call.arguments)]
    texts += [one.reasoning] if one.reasoning else []
    return _MESSAGE_BYTES + sum(map(_text_bytes, texts)) + sum(map(_part_bytes, one.content))


def _text_bytes(text: str) -> int:
    width = 1 if text.isascii() else 2 if max(text) <= "\uffff" else 4  # as Python stores it
    return _TEXT_BYTES + width * len(text)


def _part_bytes(part: Part) -> int:
    if isinstance(part, TextPart):
        return _text_bytes(part.text)
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
    return replace(message, content=tuple(map(_own_part, message.content)))


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
    return np.frombuffer(frame.tobytes(), frame.dtype).reshape(frame.shape)


def without_unchanged(
    past: Sequence[Message], new: Sequence[Message], digests: PartDigests
) -> tuple[tuple[Message, ...], int]:
    """`new` without the images it begins with that are what `past` shows last, and how many they are (decision 72).

    Equal is what is equal to the last byte and has the same limits on its pixels. A message that would have nothing
    left to say keeps its image. `digests`: of what `past` shows, for pictures that come by digest.
    """
    media = (part for message in reversed(past) for part in reversed(message.content) if not isinstance(part, TextPart))
    shown = next((part for part in media if not part.dropped), None)
    without, num_unchanged = [], 0
    for message in new:
        parts: list[Part] = []
        for part in message.content:
            if isinstance(shown, ImagePart) and isinstance(part, ImagePart) and _is_same(shown, part, digests):
                continue
            if not isinstance(part, TextPart):
                shown = None  # from here on it is not what is shown last
            parts.append(part)
        says_something = any(not isinstance(part, TextPart) or part.text.strip() for part in parts)
        num_left_out = len(message.content) - len(parts) if says_something else 0
        num_unchanged += num_left_out
        without.append(replace(message, content=tuple(parts)) if num_left_out else message)
    return tuple(without), num_unchanged


def _is_same(shown: ImagePart, given: ImagePart, digests: PartDigests) -> bool:
    if (shown.min_pixels, shown.max_pixels) != (given.min_pixels, given.max_pixels):
        return False
    ours, theirs = shown.data, given.data
    if isinstance(theirs, PictureDigest):
        return digests.of((shown,))[id(ours)] == theirs.digest
    if isinstance(ours, np.ndarray) and isinstance(theirs, np.ndarray):
        return ours.dtype == theirs.dtype and np.array_equal(ours, theirs)
    return isinstance(ours, bytes) and isinstance(theirs, bytes) and ours == theirs


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
    """What a request says in all: the past, and `new` behind it, or in place of a turn and what follows it.

    Without `new` a turn's question is answered anew, without the calls that were made for it.
    """
    if new:
        return (*before(messages, turn), *new)
    start = _start_of(messages, -1 if turn is None else turn)
    stop = next((at for at in range(start, len(messages)) if messages[at].role == "assistant"), len(messages))
    if stop == start:
        raise BadParameter("that turn has no question to answer anew; send messages")
    return messages[:stop]
