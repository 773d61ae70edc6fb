"""Between the wire's messages and the engine's types, both ways. Knows no sockets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from edge_runtime import errors
from edge_runtime.engine.events import Delta, Event, Failed, Finished
from edge_runtime.engine.request import GenerationOptions, GenerationRequest, SessionTurn
from edge_runtime.engine.session_state import SessionState
from edge_runtime.errors import BadImage, EdgeError, PicturesNeeded, ProtocolError
from edge_runtime.model.conversation import ImagePart, Message, Part, Picture, PictureDigest, TextPart, VideoPart
from edge_runtime.serving import messages as wire
from edge_runtime.serving.chat import ROLES, Chat, messages_of
from edge_runtime.serving.copies import PictureCopies
from edge_runtime.serving.limits import DEFAULT_LIMITS
from edge_runtime.serving.outgoing import Outgoing, OutgoingFrames

# ---- requests: wire -> engine ----------------------------------------------------------------------------------


def request_from_wire(header: wire.Generate, frames: Sequence[memoryview]) -> GenerationRequest:
    """The engine's request, still under the client's id. Raw pictures stay views of `frames`, encoded ones are copied.

    Raises `RequestError` for what cannot be asked, `ProtocolError` for a part that refers to a missing frame.
    """
    if not header.session and (header.turn is not None or header.supersede or header.skip_unchanged):
        raise errors.BadParameter(
            "turn, supersede and skip_unchanged are for a request of a session; name it, or leave them out"
        )
    place = SessionTurn(header.session, header.turn, header.supersede, header.skip_unchanged)
    return GenerationRequest(
        header.request_id,
        messages_from_wire(header.messages, frames),
        msgspec.convert(header, GenerationOptions, from_attributes=True),
        session=place if header.session else None,
    )


def messages_from_wire(messages: Sequence[wire.ChatMessage], frames: Sequence[memoryview]) -> tuple[Message, ...]:
    """The engine's messages. Raises as `request_from_wire`."""
    pictures = _Pictures(frames)
    return tuple(_message_from_wire(message, pictures) for message in messages)


def _message_from_wire(message: wire.ChatMessage, pictures: _Pictures) -> Message:
    if message.role not in ROLES:
        raise errors.BadPrompt(f"role {message.role!r} is unknown; wanted one of {', '.join(ROLES)}")
    parts = tuple(_part_from_wire(part, pictures) for part in message.content)
    calls, answered = message.tool_calls, message.tool_call_id
    return Message(message.role, parts, tool_calls=calls, tool_call_id=answered, reasoning=message.reasoning)


def _part_from_wire(part: wire.Text | wire.Image | wire.Video, pictures: _Pictures) -> Part:
    if isinstance(part, wire.Text):
        return TextPart(part.text)
    if isinstance(part, wire.Image):
        return ImagePart(pictures.get(part.frame), part.min_pixels, part.max_pixels)
    times = part.timestamps_s
    if not times or len(part.frames) != len(times):
        raise BadImage(f"a video has {len(part.frames)} frames and {len(times)} timestamps; it needs one for each")
    if not all(math.isfinite(time) and time >= 0 for time in times) or list(times) != sorted(times):
        raise BadImage("video timestamps must be seconds from 0 up, and never go back")
    return VideoPart(tuple(pictures.get(frame) for frame in part.frames), times)


class _Pictures:
    """The binary frames of one message as pictures; however many parts use an encoded one, it is copied once."""

    def __init__(self, frames: Sequence[memoryview]) -> None:
        self._frames = frames
        self._encoded: dict[int, bytes] = {}
        self._by_digest: dict[bytes, PictureDigest] = {}

    def get(self, frame: wire.Frame) -> Picture:
        if frame.digest is not None:
            if (frame.index, frame.width, frame.height) != (None, None, None):
                raise ProtocolError("a picture by digest has neither index nor width nor height: the digest is of all")
            return self._by_digest.setdefault(frame.digest, PictureDigest(frame.digest))
        if frame.index is None:
            raise ProtocolError("a frame has neither index nor digest; it needs one of them")
        if frame.index >= len(self._frames):
            raise ProtocolError(f"a part refers to binary frame {frame.index}, but the message has {len(self._frames)}")
        data = self._frames[frame.index]
        if frame.width is None and frame.height is None:
            if frame.index not in self._encoded:
                self._encoded[frame.index] = bytes(data)
            return self._encoded[frame.index]
        if frame.width is None or frame.height is None:
            raise ProtocolError("a raw picture needs both width and height")
        wanted = frame.height * frame.width * 3
        if data.nbytes != wanted:
            raise BadImage(
                f"a raw {frame.width} x {frame.height} RGB picture is {wanted} bytes, but its frame has {data.nbytes}"
            )
        # Nobody else has this memory; where that is seen, what was hashed once is not hashed again.
        return np.frombuffer(data.toreadonly(), np.uint8).reshape(frame.height, frame.width, 3)


# ---- requests: engine -> wire ----------------------------------------------------------------------------------


def outgoing_request(
    request_id: str,
    messages: Chat,
    options: GenerationOptions,
    session: SessionTurn | None = None,
    copies: PictureCopies | None = None,
) -> Outgoing:
    """The whole message of a client that asks for an answer; in a session there may be no new messages.

    `copies` are those of the client's earlier requests. Raises `BadParameter`, `BadPrompt` or `BadImage` for whatever
    can be seen here.
    """
    said = () if session is not None and not messages else messages_of(messages)
    return _checked(request_to_wire(GenerationRequest(request_id, said, options, session=session), copies))


def outgoing_session(request_id: str, messages: Chat, cache_salt: str) -> Outgoing:
    """The whole message of a client that opens a session. Raises as `outgoing_request`."""
    frames = OutgoingFrames()
    said = _messages_to_wire(messages_of(messages) if messages else (), frames)
    header = wire.Session(request_id=request_id, op="open", messages=said, cache_salt=cache_salt)
    return _checked(Outgoing.of(header, frames))


def _checked(outgoing: Outgoing) -> Outgoing:
    if len(outgoing.header) > (most := DEFAULT_LIMITS.max_header_bytes):
        raise errors.BadPrompt(
            f"the text of the request takes {len(outgoing.header)} bytes; a server takes {most}: send less text"
        )
    return outgoing


def request_to_wire(request: GenerationRequest, copies: PictureCopies | None = None) -> Outgoing:
    """The header and the binary frames of a request. Pixels are copied, so the caller may reuse its arrays.

    Raises `BadImage` for an array that is not uint8 [H, W, 3].
    """
    frames = OutgoingFrames(copies)
    place: dict[str, Any] = {}
    if request.session is not None:
        place = {"session": request.session.session_id, "turn": request.session.turn}
        place |= {"supersede": request.session.supersede, "skip_unchanged": request.session.skip_unchanged}
    header = wire.Generate(
        request_id=request.request_id,
        messages=_messages_to_wire(request.messages, frames),
        **place,
        **msgspec.structs.asdict(request.options),
    )
    return Outgoing.of(header, frames)


def _messages_to_wire(messages: Sequence[Message], frames: OutgoingFrames) -> tuple[wire.ChatMessage, ...]:
    return tuple(
        wire.ChatMessage(
            role=message.role,
            content=tuple(_part_to_wire(part, frames) for part in message.content),
            tool_calls=message.tool_calls,
            tool_call_id=message.tool_call_id,
            reasoning=message.reasoning,
        )
        for message in messages
    )


def _part_to_wire(part: Part, frames: OutgoingFrames) -> wire.Text | wire.Image | wire.Video:
    if isinstance(part, TextPart):
        return wire.Text(text=part.text)
    if isinstance(part, ImagePart):
        return wire.Image(frame=frames.add(part.data), min_pixels=part.min_pixels, max_pixels=part.max_pixels)
    return wire.Video(frames=tuple(map(frames.add, part.frames)), timestamps_s=part.timestamps_s)


# ---- events ----------------------------------------------------------------------------------------------------


def event_to_wire(event: Event, client_id: str) -> Delta | Finished | wire.Failed | wire.Need:
    """What the client with its own id for the request is told."""
    if isinstance(event, Failed) and isinstance(event.error, PicturesNeeded):
        return wire.Need(request_id=client_id, digests=event.error.digests)
    if isinstance(event, Failed):
        return failure_to_wire(event.error, client_id)
    return msgspec.structs.replace(event, request_id=client_id)


def session_to_wire(state: SessionState, client_id: str) -> wire.SessionReply:
    """What became of a session, as the answer to a message with that id."""
    return wire.SessionReply(
        request_id=client_id,
        session=state.session_id,
        num_turns=state.num_turns,
        num_messages=state.num_messages,
        num_bytes=state.num_bytes,
        timeout_s=state.timeout_s,
        is_busy=state.is_busy,
    )


def failure_to_wire(error: EdgeError, client_id: str) -> wire.Failed:
    """An error as the last message of a request."""
    return wire.Failed(request_id=client_id, code=error.code, message=str(error), retryable=error.retryable)


def error_from_wire(message: wire.Failed) -> EdgeError:
    """The exception of the same code; for a code we do not know, the nearest thing with the same `retryable`."""
    known = _ERRORS.get(message.code)
    if known is not None:
        return known(message.message)
    unknown: type[EdgeError] = errors.ServerError if message.retryable else errors.RequestError
    return unknown(f"{message.message} ({message.code})")


def _error_classes(root: type[EdgeError]) -> dict[str, type[EdgeError]]:
    """By code. A class without a code of its own is a matter of the part that raises it, and travels as its parent."""
    found = {root.code: root}
    for child in root.__subclasses__():
        if "code" in vars(child):
            found.update(_error_classes(child))
    return found


_ERRORS: dict[str, type[EdgeError]] = {**_error_classes(EdgeError), "internal": errors.InternalError}
