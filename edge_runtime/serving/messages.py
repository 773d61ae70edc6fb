"""The headers of the wire, both ways, and their encoding. docs/protocol.md is their description for people.

MessagePack maps with a `type` tag. Unknown fields are tolerated, and a field added later has a default, so that old
and new clients and servers understand each other. Knows nothing of sockets or of images: a part refers to the binary
frames behind the header by index.
"""

from __future__ import annotations

from typing import Annotated, TypeVar

import msgspec

from edge_runtime.engine.request import GenerationOptions

PROTOCOL_VERSION = 1
MAX_ID_LENGTH = 128

RequestId = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID_LENGTH)]
_Index = Annotated[int, msgspec.Meta(ge=0)]
_Size = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]


class _Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type"):
    """Base of everything with a `type` tag."""


# ---- parts of a chat message -----------------------------------------------------------------------------------


class Frame(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One picture: the binary frame of that index (the first one after the header is 0).

    With `width` and `height` the frame holds raw RGB, uint8 [height, width, 3]; without, an encoded image file.
    """

    index: _Index
    width: _Size | None = None
    height: _Size | None = None


class Text(_Message, frozen=True, tag="text"):
    """A run of plain text."""

    text: str


class Image(_Message, frozen=True, tag="image"):
    """One image. `min_pixels` and `max_pixels` narrow the model's own limits."""

    frame: Frame
    min_pixels: _Size | None = None
    max_pixels: _Size | None = None


class Video(_Message, frozen=True, tag="video"):
    """Sampled frames of a video, oldest first, each with its time in seconds."""

    frames: tuple[Frame, ...]
    timestamps_s: tuple[float, ...]


class ChatMessage(msgspec.Struct, frozen=True, kw_only=True):
    """One turn of a chat. `role` is system, user or assistant."""

    role: str
    content: tuple[Text | Image | Video, ...]


# ---- client to server ------------------------------------------------------------------------------------------


class Generate(GenerationOptions, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="generate"):
    """Answer a chat. The engine's options are fields of the message itself."""

    id: RequestId
    messages: tuple[ChatMessage, ...]
    protocol: int = PROTOCOL_VERSION


class Cancel(_Message, frozen=True, tag="cancel"):
    """Stop a request. It still ends in its own `Failed` (or in `Finished`, if that was quicker)."""

    id: RequestId


class Ping(_Message, frozen=True, tag="ping"):
    """A sign of life; answered by `Pong`."""


class Info(_Message, frozen=True, tag="info"):
    """Ask what is served; answered by `InfoReply` with the same id."""

    id: RequestId


# ---- server to client ------------------------------------------------------------------------------------------


class Accepted(_Message, frozen=True, tag="accepted"):
    """The request is in the queue. A client that is silent for `client_timeout_s` loses it."""

    id: str
    client_timeout_s: float


class TokenLogprob(msgspec.Struct, frozen=True, kw_only=True):
    """Natural-log probability of a drawn token, and the likeliest tokens at its place, as [id, logprob] pairs."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class Delta(_Message, frozen=True, tag="delta"):
    """New text of one channel (answer or reasoning), and the tokens drawn since the last delta."""

    id: str
    text: str
    channel: str = "answer"
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] | None = None


class Timings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where the time went, in milliseconds, and what it covered; the fields of the engine's `Timings`."""

    queue_ms: float = 0.0
    decode_image_ms: float = 0.0
    resize_ms: float = 0.0
    vision_ms: float = 0.0
    prefill_ms: float = 0.0
    decode_ms: float = 0.0
    first_token_ms: float = 0.0
    total_ms: float = 0.0
    prompt_tokens: int = 0
    image_tokens: int = 0
    output_tokens: int = 0


class Finished(_Message, frozen=True, tag="finished"):
    """The end of a request that has its answer; `text` and `reasoning` are the deltas joined."""

    id: str
    text: str
    finish_reason: str
    reasoning: str = ""
    token_ids: tuple[int, ...] = ()
    timings: Timings = Timings()


class Failed(_Message, frozen=True, tag="failed"):
    """The end of a request without an answer; with an empty id, a complaint about a message that belongs to none."""

    id: str
    code: str
    message: str
    retryable: bool = False


class Pong(_Message, frozen=True, tag="pong"):
    """A sign of life: the answer to `Ping`, and sent unasked to whoever has a request in flight."""


class VideoSampling(msgspec.Struct, frozen=True, kw_only=True):
    """How the model wants its videos sampled: frames per second, and pixels of all frames together once resized.

    `max_tokens` is what the frames of a clip may take of the context beside words and an answer, `max_frame_pixels` the
    largest frame that is not resized again; None from a server that does not say.
    """

    fps: float
    min_frames: int
    max_frames: int
    min_pixels: int
    max_pixels: int
    patch_size: int
    spatial_merge_size: int
    temporal_patch_size: int
    max_tokens: int | None = None
    max_frame_pixels: int | None = None


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one message, one client and the server may have at most."""

    max_frame_bytes: int
    max_message_bytes: int
    max_frames: int
    max_header_bytes: int
    max_in_flight: int
    max_in_flight_per_client: int
    max_parts: int = 4096
    max_in_flight_bytes: int = 512 * 2**20


class InfoReply(_Message, frozen=True, tag="info_reply"):
    """What is served, by which version, within which limits; and how many requests of all clients are in flight."""

    id: str
    protocol: int
    server_version: str
    model: str
    flavour: str
    max_context: int
    max_pixels: int
    video: VideoSampling
    limits: Limits
    in_flight: int = 0


ClientMessage = Generate | Cancel | Ping | Info
ServerMessage = Accepted | Delta | Finished | Failed | Pong | InfoReply


class Peek(msgspec.Struct, frozen=True):
    """As much of a header as can be told when the whole of it cannot be decoded."""

    type: str = ""
    id: str = ""


_client_decoder: msgspec.msgpack.Decoder[ClientMessage] = msgspec.msgpack.Decoder(ClientMessage)
_server_decoder: msgspec.msgpack.Decoder[ServerMessage] = msgspec.msgpack.Decoder(ServerMessage)
_peek_decoder = msgspec.msgpack.Decoder(Peek)
_encoder = msgspec.msgpack.Encoder()


def encode(message: ClientMessage | ServerMessage) -> bytes:
    """The header as MessagePack."""
    return _encoder.encode(message)


def decode_client_message(header: bytes | memoryview) -> ClientMessage:
    """Decode what a client sent. Raises `BadParameter` for an option outside its range.

    Raises `ValueError` (with the path of the wrong field) if it is not ours.
    """
    return _decode(_client_decoder, header)


def decode_server_message(header: bytes | memoryview) -> ServerMessage:
    """Decode what a server sent. Raises `ValueError` (with the path of the wrong field) if it is not ours."""
    return _decode(_server_decoder, header)


def peek(header: bytes | memoryview) -> Peek:
    """Type and id of a header that may be damaged; empty where they cannot be read."""
    try:
        found = _decode(_peek_decoder, header)
    except ValueError:
        return Peek()
    return found if len(found.id) <= MAX_ID_LENGTH else Peek(type=found.type)


_T = TypeVar("_T")


def _decode(decoder: msgspec.msgpack.Decoder[_T], header: bytes | memoryview) -> _T:
    try:
        return decoder.decode(header)
    # Besides its own errors msgspec lets these two out: broken UTF-8 in a map key, and absurdly deep nesting.
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(str(error)) from error
