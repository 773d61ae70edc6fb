"""What the engine says about a request: any number of `Delta`, then exactly one `Finished` or `Failed`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edge_runtime.errors import EdgeError

Channel = Literal["answer", "reasoning"]
FinishReason = Literal["stop", "length", "repetition"]
"""stop: an end token or a stop string; length: max_tokens; repetition: the answer only repeated itself."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Natural-log probability of a chosen token, and of the likeliest tokens at its place.

    The model's own, before penalties, temperature and truncation.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Timings:
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


@dataclass(frozen=True, slots=True)
class Delta:
    """New text, valid UTF-8, of one channel. `token_ids` are all tokens drawn since the last delta.

    The last delta may have no text: then it carries the tokens, such as the end token, that say nothing.
    """

    request_id: str
    text: str
    channel: Channel
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] | None = None


@dataclass(frozen=True, slots=True)
class Finished:
    """The request ended with an answer; `text`, `reasoning` and `token_ids` are those of the deltas joined.

    `token_ids` are all tokens drawn: of both channels, with think tokens, the end token or a stop string's tokens.
    """

    request_id: str
    text: str
    reasoning: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    timings: Timings


@dataclass(frozen=True, slots=True)
class Failed:
    """The request ended without a complete answer."""

    request_id: str
    error: EdgeError


Event = Delta | Finished | Failed
