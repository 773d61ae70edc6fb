"""What is in the header of a saved session, and its messages: to records and back. Knows no file, no engine.

Nothing that is read here is trusted: every length and index is checked against what is there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_runtime.engine.option_checks import MAX_SALT_LENGTH
from edge_runtime.engine.session_file import Piece
from edge_runtime.engine.session_state import SavedState
from edge_runtime.errors import BadParameter, BadPrompt, SessionFileError
from edge_runtime.model.conversation import ImagePart, Message, Part, Picture, PictureDigest, Role, TextPart, VideoPart
from edge_runtime.model.fingerprint import Fingerprint
from edge_runtime.model.tools import ToolCall, ToolDefinition

_Index = Annotated[int, msgspec.Meta(ge=0)]
_Size = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
_MAX_PARTS = 1 << 16
"""Of a session that comes out of a file: no model has room for so many."""
_Salt = Annotated[str, msgspec.Meta(max_length=MAX_SALT_LENGTH)]


class PictureRecord(msgspec.Struct, frozen=True):
    """A picture: a file, or with a size raw pixels, uint8 [height, width, 3]."""

    piece: Piece
    height: _Size | None = None
    width: _Size | None = None


class PartRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """Text; or the numbers of pictures: one of an image, or the frames of a video with their times."""

    text: str | None = None
    pictures: tuple[_Index, ...] = ()
    timestamps_s: tuple[float, ...] = ()
    min_pixels: _Size | None = None
    max_pixels: _Size | None = None
    is_video: bool = False
    dropped: _Index = 0


class MessageRecord(msgspec.Struct, frozen=True):
    """One message."""

    role: Role
    parts: tuple[PartRecord, ...]
    dropped: _Index = 0
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    reasoning: str = ""


class MediaRecord(msgspec.Struct, frozen=True, array_like=True):
    """One run of the vision encoder: its tokens, and the digest of its pixels."""

    start: int
    rows: int
    columns: int
    digest: bytes


class LogRecord(msgspec.Struct, frozen=True):
    """The tokens whose keys and values are saved, and of the prompt with one token an image where the answers are."""

    token_ids: bytes
    """int32, little-endian."""
    rope_delta: int
    media: tuple[MediaRecord, ...]
    piece_tokens: int
    """Of each piece but the last, which may have fewer."""
    pieces: tuple[Piece, ...]
    """Their keys and values."""


class AnswersRecord(msgspec.Struct, frozen=True):
    """A prompt with one token an image, and where in it the answers are that were drawn."""

    token_ids: bytes
    """int32, little-endian."""
    spans: tuple[tuple[_Index, _Index], ...]


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of a saved session but for its pictures, keys and values."""

    library: str
    saved_at_s: float
    """Seconds since 1970."""
    model: Fingerprint
    session_id: Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern="^[A-Za-z0-9_-]+$")]
    cache_salt: _Salt
    key_salt: _Salt | None
    idle_s: float
    messages: tuple[MessageRecord, ...]
    tools: tuple[ToolDefinition, ...] = ()
    pictures: tuple[PictureRecord, ...]
    answers: AnswersRecord | None
    log: LogRecord | None

    @property
    def pieces(self) -> list[Piece]:
        """Those of the file, in order."""
        return [picture.piece for picture in self.pictures] + list(() if self.log is None else self.log.pieces)


_decoder = msgspec.msgpack.Decoder(Header)


def decode_header(data: bytes, name: str) -> Header:
    """The header of the file `name`. Raises `SessionFileError`."""
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, BadParameter) as error:
        raise SessionFileError(f"the header of {name} is none: {error}; save the session again") from error


def ids_to_bytes(ids: NDArray[np.int64]) -> bytes:
    """Token ids as they are saved."""
    return ids.astype("<i4").tobytes()


def ids_from_bytes(data: bytes) -> NDArray[np.int64]:
    """Saved token ids. Raises `SessionFileError`."""
    if len(data) % 4:
        raise SessionFileError("the saved session has half a token; save it again")
    return np.frombuffer(data, dtype="<i4").astype(np.int64)


def message_records(
    messages: Sequence[Message], write: Callable[[bytes | memoryview], Piece]
) -> tuple[tuple[MessageRecord, ...], tuple[PictureRecord, ...]]:
    """Messages as records; `write` is given each of their pictures once."""
    pictures: list[PictureRecord] = []
    numbers: dict[int, int] = {}

    def number(picture: Picture) -> int:
        assert not isinstance(picture, PictureDigest)  # a session has its pictures
        if id(picture) not in numbers:
            numbers[id(picture)] = len(pictures)
            if isinstance(picture, np.ndarray):
                piece = write(np.ascontiguousarray(picture).data.cast("B"))
                pictures.append(PictureRecord(piece, picture.shape[0], picture.shape[1]))
            else:
                pictures.append(PictureRecord(write(picture)))
        return numbers[id(picture)]

    def record(part: Part) -> PartRecord:
        if isinstance(part, TextPart):
            return PartRecord(part.text)
        if isinstance(part, ImagePart):
            return PartRecord(None, (number(part.data),), (), part.min_pixels, part.max_pixels, dropped=part.dropped)
        frames = tuple(map(number, part.frames))
        return PartRecord(None, frames, part.timestamps_s, is_video=True, dropped=part.dropped)

    records = tuple(
        MessageRecord(
            said.role,
            tuple(map(record, said.content)),
            said.dropped,
            said.tool_calls,
            said.tool_call_id,
            said.reasoning,
        )
        for said in messages
    )
    return records, tuple(pictures)


def messages_of(header: Header, read: Callable[[Piece], bytes]) -> tuple[Message, ...]:
    """The messages of a saved session; `read` gives the pictures in order. Raises `SessionFileError`."""
    if len(header.messages) + sum(len(message.parts) for message in header.messages) > _MAX_PARTS:
        raise SessionFileError(f"the saved session has more than {_MAX_PARTS} messages and parts; drop turns")
    pictures = [_picture(record, read(record.piece)) for record in header.pictures]
    try:
        return tuple(_message(record, pictures) for record in header.messages)
    except BadPrompt as error:
        raise SessionFileError(f"the saved session has a message that is none: {error}; save it again") from error


def _message(record: MessageRecord, pictures: Sequence[Picture]) -> Message:
    parts = [_part(part, pictures) for part in record.parts]
    return Message(
        record.role,
        parts,
        record.dropped,
        tool_calls=record.tool_calls,
        tool_call_id=record.tool_call_id,
        reasoning=record.reasoning,
    )


def _picture(record: PictureRecord, data: bytes) -> Picture:
    if record.height is None and record.width is None:
        return data
    if record.height is None or record.width is None or len(data) != record.height * record.width * 3:
        raise SessionFileError("the saved session has a picture of another size than it says; save it again")
    return np.frombuffer(data, np.uint8).reshape(record.height, record.width, 3)


def _part(record: PartRecord, pictures: Sequence[Picture]) -> Part:
    if record.text is not None:
        return TextPart(record.text)
    if any(number >= len(pictures) for number in record.pictures):
        raise SessionFileError("the saved session has a part without its picture; save it again")
    chosen = tuple(pictures[number] for number in record.pictures)
    if not record.is_video and len(chosen) == 1:
        return ImagePart(chosen[0], record.min_pixels, record.max_pixels, record.dropped)
    times = record.timestamps_s
    in_order = list(times) == sorted(times) and all(math.isfinite(time) and time >= 0 for time in times)
    if not record.is_video or not chosen or len(times) != len(chosen) or not in_order:
        raise SessionFileError("the saved session has a part that is neither text, image nor video; save it again")
    return VideoPart(chosen, times, record.dropped)


def state_of(header: Header, messages: tuple[Message, ...]) -> SavedState:
    """The session as it was saved."""
    return SavedState(messages, header.cache_salt, header.key_salt, header.session_id, header.idle_s, header.tools)
