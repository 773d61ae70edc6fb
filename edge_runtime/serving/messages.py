"""The headers of the wire, both ways, and their encoding. docs/protocol.md is their description for people.

MessagePack maps with a `type` tag. Unknown fields are tolerated, and a field added later has a default, so that old
and new clients and servers understand each other. Knows nothing of sockets or of images: a part refers to the binary
frames behind the header by index.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

import msgspec

from edge_runtime.engine.cache_info import CacheInfo
from edge_runtime.engine.events import Delta, Finished
from edge_runtime.engine.request import GenerationOptions
from edge_runtime.errors import ProtocolError
from edge_runtime.model.tools import ToolCall
from edge_runtime.serving.limits import Limits

PROTOCOL_VERSION = 1
MAX_ID_LENGTH = 128

RequestId = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID_LENGTH)]
_Index = Annotated[int, msgspec.Meta(ge=0)]
_Digest = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
_Size = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]


class _Message(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", rename={"request_id": "id"}
):
    """Base of everything with a `type` tag."""


# ---- parts of a chat message -----------------------------------------------------------------------------------


class Frame(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One picture: the binary frame of that index (the first one after the header is 0), or one sent before, by digest.

    With `width` and `height` the frame holds raw RGB, uint8 [height, width, 3]; without, an encoded image file.
    """

    index: _Index | None = None
    digest: _Digest | None = None
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


class ChatMessage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One message of a chat. `role` is system, user, assistant or tool."""

    role: str
    content: tuple[Text | Image | Video, ...]
    tool_calls: tuple[ToolCall, ...] = ()
    """Of the assistant's: what it called."""
    tool_call_id: str = ""
    """Of a tool's: the call that it answers; empty: the next one that is not answered."""
    reasoning: str = ""
    """Of the assistant's: the thought before it."""


# ---- client to server ------------------------------------------------------------------------------------------


class Generate(_Message, GenerationOptions, frozen=True, kw_only=True, tag="generate"):
    """Answer a chat. The engine's options are fields of the message itself."""

    request_id: RequestId
    messages: tuple[ChatMessage, ...]
    """In a session only what is new in it."""
    session: str = ""
    """The session whose past comes before the messages; empty: none."""
    turn: int | None = None
    """In a session, the turn that the messages replace; see `SessionTurn`."""
    supersede: bool = False
    """Cancel the request that the session is answering."""
    skip_unchanged: bool = False
    """In a session, leave out an image that it shows last; see `SessionTurn`."""
    protocol: int = PROTOCOL_VERSION

    def __post_init__(self) -> None:
        """Raise `ProtocolError` for another version, whose options are not ours to judge; else as the options do."""
        if self.protocol != PROTOCOL_VERSION:
            raise ProtocolError(f"protocol version {self.protocol} is not served, only {PROTOCOL_VERSION}")
        GenerationOptions.__post_init__(self)


class Cancel(_Message, frozen=True, tag="cancel"):
    """Stop a request. It still ends in its own `Failed` (or in `Finished`, if that was quicker)."""

    request_id: RequestId


class Ping(_Message, frozen=True, tag="ping"):
    """A sign of life; answered by `Pong`."""


class Info(_Message, frozen=True, tag="info"):
    """Ask what is served; answered by `InfoReply` with the same id."""

    request_id: RequestId


class Session(_Message, frozen=True, kw_only=True, tag="session"):
    """Do something about a session; answered by `SessionReply` with the same id.

    open: begin one with `messages`. fork: begin one with the past of `session`, up to and without `turn`. state: ask.
    close: forget it. drop: images and videos but the last `keep_images` leave, and with `reasoning` the last thought.
    save: write it to the file `path`. restore: begin one with what is in that file.
    """

    request_id: RequestId
    op: Literal["open", "fork", "state", "close", "drop", "save", "restore"]
    session: str = ""
    messages: tuple[ChatMessage, ...] = ()
    turn: int | None = None
    cache_salt: str = ""
    keep_images: _Index | None = None
    reasoning: bool = False
    approximate: bool = False
    path: str = ""


# ---- server to client ------------------------------------------------------------------------------------------


class Accepted(_Message, frozen=True, tag="accepted"):
    """The request is in the queue. A client that is silent for `client_timeout_s` loses it."""

    request_id: str
    client_timeout_s: float
    takes_digests: bool = False
    """Whether a frame that was sent before may be sent by its digest."""


class Need(_Message, frozen=True, tag="need"):
    """The end of a request that cannot be answered without these pictures, of which it has the digests alone."""

    request_id: str
    digests: tuple[bytes, ...]


class Failed(_Message, frozen=True, tag="failed"):
    """The end of a request without an answer; with an empty id, a complaint about a message that belongs to none."""

    request_id: str
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


class ModelInfo(msgspec.Struct, frozen=True):
    """What is told about the model to whoever asks."""

    model: str
    flavour: str
    max_context: int
    max_pixels: int
    video: VideoSampling
    server_version: str


class InfoReply(_Message, ModelInfo, frozen=True, kw_only=True, tag="info_reply"):
    """What is served, by which version, within which limits; and how many requests of all clients are in flight.

    `cache` is what the engine holds and has found again; None from a server that does not say. Sessions hold text and
    pictures of `session_bytes`.
    """

    request_id: str
    protocol: int
    limits: Limits
    in_flight: int = 0
    cache: CacheInfo | None = None
    sessions: int = 0
    session_bytes: int = 0
    max_session_bytes: int = 0


class SessionReply(_Message, frozen=True, kw_only=True, tag="session_reply"):
    """What became of a session, as `SessionState` has it."""

    request_id: str
    session: str
    num_turns: int
    num_messages: int
    num_bytes: int
    timeout_s: float
    is_busy: bool = False


ClientMessage = Generate | Cancel | Ping | Info | Session
ServerMessage = Accepted | Need | Delta | Finished | Failed | Pong | InfoReply | SessionReply


class Peek(msgspec.Struct, frozen=True, rename={"request_id": "id"}):
    """As much of a header as can be told when the whole of it cannot be decoded."""

    type: str = ""
    request_id: str = ""


_client_decoder: msgspec.msgpack.Decoder[ClientMessage] = msgspec.msgpack.Decoder(ClientMessage)
_server_decoder: msgspec.msgpack.Decoder[ServerMessage] = msgspec.msgpack.Decoder(ServerMessage)
_peek_decoder = msgspec.msgpack.Decoder(Peek)
_encoder = msgspec.msgpack.Encoder()


def encode(message: ClientMessage | ServerMessage) -> bytes:
    """The header as MessagePack."""
    return _encoder.encode(message)


def decode_client_message(header: bytes | memoryview) -> ClientMessage:
    """Decode what a client sent. Raises `BadParameter` for an option outside its range, or `ProtocolError`.

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
    return found if len(found.request_id) <= MAX_ID_LENGTH else Peek(type=found.type)


_T = TypeVar("_T")


def _decode(decoder: msgspec.msgpack.Decoder[_T], header: bytes | memoryview) -> _T:
    try:
        return decoder.decode(header)
    # Besides its own errors msgspec lets these two out: broken UTF-8 in a map key, and absurdly deep nesting.
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(str(error)) from error
