"""What a session drops: images and thoughts, first in its messages, then in the log of its tokens. Knows no cache.

Exactly, the parts leave the messages, and it is as if they had never been said. Approximately they are marked and stay:
the log is built with them, their tokens are taken out of it, and all others keep their positions (decision 71).
"""

from __future__ import annotations

import hashlib
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
    if isinstance(num_kept, bool) or not isinstance(num_kept, int) or not 0 <= num_kept < 2**31:
        raise BadParameter(f"older_than({num_kept!r}): it takes the number of images that stay, from 0")
    return OlderThan(num_kept)


def drop(
    messages: Sequence[Message], num_kept: int | None, *, reasoning: bool = False, approximate: bool = False
) -> tuple[Message, ...]:
    """The messages without their images and videos but the last `num_kept`, or with those marked; None: all stay.

    `reasoning`: the thought before the last answer is marked, too. Exactly there is nothing to do for it: a history has
    no thoughts. A message that loses nothing is the same object.
    """
    media = [part for message in messages for part in message.content if not isinstance(part, TextPart)]
    num_leaving = 0 if num_kept is None else max(0, len(media) - num_kept)
    number = 1 + max((one.dropped for one in (*media, *messages)), default=0) if approximate else None
    without = []
    for message in messages:
        without.append(_without(message, num_leaving, number))
        num_leaving -= sum(not isinstance(part, TextPart) for part in message.content)
    if reasoning and number is not None and without and without[-1].role == "assistant" and not without[-1].dropped:
        without[-1] = replace(without[-1], dropped=number)
    return tuple(without)


def _without(message: Message, num_leaving: int, number: int | None) -> Message:
    """The message without so many of its first images and videos, or with those marked."""
    parts: list[Part] = []
    for part in message.content:
        is_leaving = not isinstance(part, TextPart) and num_leaving > 0
        num_leaving -= is_leaving
        if isinstance(part, TextPart) or not is_leaving:
            parts.append(part)
        elif number is not None:
            parts.append(part if part.dropped else _marked(part, number))
    is_same = len(parts) == len(message.content) and all(map(lambda a, b: a is b, parts, message.content))
    return message if is_same else replace(message, content=tuple(parts))


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

    @classmethod
    def of(cls, input_ids: NDArray[np.int64], start: int, stop: int, number: int, shows: bytes = b"") -> Gap:
        """The tokens [start, stop) of `input_ids`; `shows`: what else they depend on."""
        digest = hashlib.blake2b(input_ids[start:stop].tobytes() + shows, digest_size=16)
        return cls(start, stop, number, digest.digest())


def kept_tokens(num_tokens: int, gaps: Sequence[Gap]) -> NDArray[np.bool_]:
    """[num_tokens] which tokens of a whole log stay."""
    kept = np.ones(num_tokens, dtype=np.bool_)
    for gap in gaps:
        kept[gap.start : gap.stop] = False
    return kept
