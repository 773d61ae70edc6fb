"""What the engine says about a request: any number of `Delta`, then exactly one `Finished` or `Failed`.

All but `Failed`, which holds an exception, are messages of the wire as they are (docs/protocol.md): a field added later
has a default, and `request_id` is `id` there.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Literal

import msgspec

from edge_runtime.actions.pixels import pixel
from edge_runtime.errors import BadAction, BadParameter, EdgeError, SmallImageWarning
from edge_runtime.model.tools import ToolCall

if TYPE_CHECKING:
    from edge_runtime.actions import Action
    from edge_runtime.model.conversation import Message

Channel = Literal["answer", "reasoning", "tool_call"]
ThoughtEnd = Literal["", "itself", "budget", "repetition"]
"""What ended a thought: the model itself, the request's budget, or that it only repeated itself; empty: nothing did."""
FinishReason = Literal["stop", "length", "repetition", "tool_calls"]
"""stop: an end token or a stop string; length: max_tokens; repetition: the answer only repeated itself; tool_calls: as
stop, and there is at least one call."""


class TokenLogprob(msgspec.Struct, frozen=True):
    """Natural-log probability of a chosen token, and of the likeliest tokens at its place.

    The model's own, before penalties, temperature and truncation.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class Timings(msgspec.Struct, frozen=True):
    """Where the time of a request went, in milliseconds of wall clock, and what it covered.

    With several chats in flight the runs of others come in between, so the parts add up to less than `total_ms`.
    """

    queue_ms: float = 0.0
    """From submit, through template and tokenizer, to the room in the KV cache."""
    decode_image_ms: float = 0.0
    resize_ms: float = 0.0
    vision_ms: float = 0.0
    prefill_ms: float = 0.0
    """The runs of prompt chunks; other chats' tokens in the same runs included."""
    decode_ms: float = 0.0
    """From the first token to the end."""
    first_token_ms: float = 0.0
    """From submit to the first token."""
    total_ms: float = 0.0
    prompt_tokens: int = 0
    image_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    """Those of them that the model thought, without what closed its thought."""
    forced_tokens: int = 0
    """Those of them that were not drawn: a grammar or a budget left no choice."""
    drafted_tokens: int = 0
    """Tokens that were guessed, and run before it was known whether they come."""
    accepted_tokens: int = 0
    """Those of them that came."""
    cached_tokens: int = 0
    """Tokens of the prompt whose keys and values were in the cache already."""
    computed_tokens: int = 0
    """The others."""
    vision_cached: int = 0
    """Images and video frame pairs that were not encoded again."""
    unchanged_images: int = 0
    """Images that were left out of the prompt, because the session shows them last: see `SessionTurn`."""


class ImageShape(msgspec.Struct, frozen=True):
    """An image of a chat: its size in pixels, as decoded and turned upright, and the tokens it has in the model."""

    width: int
    height: int
    num_tokens: int

    def to_pixels(self, point: Sequence[float]) -> tuple[int, int]:
        """The pixel (x, y) that holds a point (x, y) of an answer, which runs from 0 to 1000 across and down the image.

        The right and the lower edge belong to the last pixels. Raises `BadParameter` for what is no such point.
        """
        try:
            x, y = point
            fits = all(_is_coordinate(value) for value in (x, y))
        except (TypeError, ValueError):
            fits = False
        if not fits:
            raise BadParameter(f"the point is {point!r:.80}; wanted (x, y), two numbers from 0 to 1000")
        return pixel(x, self.width, 1000), pixel(y, self.height, 1000)


def _is_coordinate(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and 0 <= float(value) <= 1000


class _Event(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="type", rename={"request_id": "id"}):
    request_id: str


class ToolCallDelta(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which call of an answer a delta belongs to; in its first one with the call's id and name."""

    index: int
    id: str = ""
    name: str = ""


class Delta(_Event, frozen=True, tag="delta"):
    """New text, valid UTF-8, of one channel. `token_ids` are all tokens drawn since the last delta.

    The last delta may have no text: then it carries the tokens, such as the end token, that say nothing.
    """

    text: str
    channel: str = "answer"
    """A `Channel`; a server newer than its client may have more of them. Of "tool_call" the text is of arguments."""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] | None = None
    tool_call: ToolCallDelta | None = None
    """In the channel "tool_call": which one. It counts once it is among those of `Finished`."""


class Finished(_Event, frozen=True, tag="finished"):
    """The request ended with an answer; `text`, `reasoning` and `token_ids` are those of the deltas joined.

    `token_ids` are all tokens drawn: of both channels, with think tokens, the end token or a stop string's tokens.
    """

    text: str
    finish_reason: str
    """A `FinishReason`, or one that this client does not know yet."""
    reasoning: str = ""
    token_ids: tuple[int, ...] = ()
    timings: Timings = Timings()
    thought_end: str = ""
    """A `ThoughtEnd`."""
    thought_repeats: bool = False
    """Whether the thought came to only repeating itself, token for token."""
    images: tuple[ImageShape, ...] = ()
    """Those of the whole chat, oldest first; frames of videos are none."""
    tool_calls: tuple[ToolCall, ...] = ()
    """Those that are complete. What was to be a call and is none, malformed or cut off, is at its place in `text`."""
    malformed_calls: tuple[str, ...] = ()
    """What is wrong with each of those that are none."""

    @property
    def message(self) -> Message:
        """The answer as a message of the history of the next question, tool calls and all."""
        from edge_runtime.model.conversation import Message  # noqa: PLC0415 - as below

        return Message("assistant", self.text, tool_calls=self.tool_calls, reasoning=self.reasoning)

    def to_pixels(self, point: Sequence[float], image: int = -1) -> tuple[int, int]:
        """The pixel (x, y) of an image of the chat, the last one by default, that a point of the answer is in.

        `point` is (x, y), each from 0 to 1000 across or down the image, as these models say them. Warns
        (`errors.SmallImageWarning`) where the image has so few tokens that they point at the wrong places. Raises
        `BadParameter` for what is no point, and for an image that is not there.
        """
        shape = self._shape(image)
        place = shape.to_pixels(point)
        _warn_if_small(shape)
        return place

    def actions(self, name: str, image: int = -1) -> list[Action]:
        """What the answer says to do, in the action format `name` (docs/actions.md), in pixels of an image of the chat.

        Warns as `to_pixels` does. Raises `BadAction` for an answer that says no action or was cut off, and
        `BadParameter` for a format or an image that is not there.
        """
        from edge_runtime import actions  # noqa: PLC0415 - who asks no such thing does without

        known = actions.get(name)
        if self.finish_reason == "length":
            raise BadAction(
                f"the answer was cut off, and may say half an action: {self.text[-80:]!r}; raise max_tokens"
            )
        said = known.parse("\n".join((self.text, *(call.spelled for call in self.tool_calls))))
        if all(action.divisor is None for action in said):
            return said
        shape = self._shape(image)
        _warn_if_small(shape)
        return [action.in_pixels(shape.width, shape.height) for action in said]

    def _shape(self, image: int) -> ImageShape:
        count = len(self.images)
        if isinstance(image, bool) or not isinstance(image, Integral) or not -count <= image < count:
            raise BadParameter(
                f"there is no image {image!r:.80}: the chat has {count}; they count from 0, oldest first, and -1 is "
                "the last"
            )
        return self.images[image]


def _warn_if_small(shape: ImageShape) -> None:
    from edge_runtime.devices.memory import MIN_IMAGE_TOKENS  # noqa: PLC0415 - who asks no such thing does without

    if shape.num_tokens < MIN_IMAGE_TOKENS:
        warnings.warn(
            f"the image has {shape.num_tokens} tokens, and with fewer than {MIN_IMAGE_TOKENS} these models point "
            "at wrong places; ask with a larger min_pixels, or max_pixels where that made it so small",
            SmallImageWarning,
            stacklevel=3,
        )


@dataclass(frozen=True, slots=True)
class Failed:
    """The request ended without a complete answer."""

    request_id: str
    error: EdgeError


Event = Delta | Finished | Failed
