"""What the engine says about a request: any number of `Delta`, then exactly one `Finished` or `Failed`.

All but `Failed`, which holds an exception, are messages of the wire as they are (docs/protocol.md): a field added later
has a default, and `request_id` is `id` there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec

from edge_runtime.errors import EdgeError

Channel = Literal["answer", "reasoning"]
FinishReason = Literal["stop", "length", "repetition"]
"""stop: an end token or a stop string; length: max_tokens; repetition: the answer only repeated itself."""


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
    cached_tokens: int = 0
    """Tokens of the prompt whose keys and values were in the cache already."""
    computed_tokens: int = 0
    """The others."""
    vision_cached: int = 0
    """Images and video frame pairs that were not encoded again."""


class _Event(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="type", rename={"request_id": "id"}):
    request_id: str


class Delta(_Event, frozen=True, tag="delta"):
    """New text, valid UTF-8, of one channel. `token_ids` are all tokens drawn since the last delta.

    The last delta may have no text: then it carries the tokens, such as the end token, that say nothing.
    """

    text: str
    channel: str = "answer"
    """A `Channel`; a server newer than its client may have more of them."""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] | None = None


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


@dataclass(frozen=True, slots=True)
class Failed:
    """The request ended without a complete answer."""

    request_id: str
    error: EdgeError


Event = Delta | Finished | Failed
