"""What a session drops: images, first in its messages, then in the log of its tokens. Knows no cache.

Exactly, the parts leave the messages, and it is as if they had never been said. Approximately they are marked and stay:
the log is built with them, their tokens are taken out of it, and all others keep their positions (decision 71).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import BadParameter
from edge_runtime.model.conversation import ImagePart, Message, Part, TextPart, VideoPart


@dataclass(frozen=True, slots=True)
class OlderThan:
    """All images and videos of a session but the last `num_kept`."""

    num_kept: int


def older_than(num_kept: int) -> OlderThan:
    """For `session.drop`: all images and videos but the last `num_kept`. Raises `BadParameter`."""
    if isinstance(num_kept, bool) or not isinstance(num_kept, int) or num_kept < 0:
        raise BadParameter(f"older_than({num_kept!r}): it takes the number of images that stay, from 0")
    return OlderThan(num_kept)


def drop_media(messages: Sequence[Message], num_kept: int, *, approximate: bool) -> tuple[Message, ...]:
    """The messages without their images and videos but the last `num_kept`, or with those marked.

    A message that loses nothing is the same object.
    """
    media = [part for message in messages for part in message.content if not isinstance(part, TextPart)]
    leaving = {id(part) for part in media[: max(0, len(media) - num_kept)]}
    number = 1 + max((part.dropped for part in media), default=0)
    return tuple(_without(message, leaving, number if approximate else None) for message in messages)


def _without(message: Message, leaving: set[int], number: int | None) -> Message:
    parts: list[Part] = []
    for part in message.content:
        if isinstance(part, TextPart) or id(part) not in leaving:
            parts.append(part)
        elif number is not None:
            parts.append(part if part.dropped else _marked(part, number))
    is_same = len(parts) == len(message.content) and all(map(lambda a, b: a is b, parts, message.content))
    return message if is_same else Message(message.role, parts)


def _marked(part: ImagePart | VideoPart, number: int) -> Part:
    return replace(part, dropped=number)


@dataclass(frozen=True, slots=True)
class Gap:
    """Tokens that were taken out of a log."""

    start: int
    """Where they begin in the whole log."""
    stop: int
    number: int
    """The drop that they left in, from 1 on: those of a lower number had left before."""
    digest: bytes
    """Of all that they say."""


def kept_tokens(num_tokens: int, gaps: Sequence[Gap]) -> NDArray[np.bool_]:
    """[num_tokens] which tokens of a whole log stay."""
    kept = np.ones(num_tokens, dtype=np.bool_)
    for gap in gaps:
        kept[gap.start : gap.stop] = False
    return kept
