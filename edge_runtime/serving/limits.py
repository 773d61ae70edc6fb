"""Sizes of a message, checked before anything in it is decoded."""

from __future__ import annotations

from collections.abc import Sequence

from edge_runtime.errors import ProtocolError
from edge_runtime.serving.messages import Generate, Limits, Video

MIB = 2**20

DEFAULT_LIMITS = Limits(
    max_frame_bytes=128 * MIB,  # a raw 8K picture is 95 MiB
    max_message_bytes=512 * MIB,
    max_frames=1024,
    max_header_bytes=4 * MIB,
    max_in_flight=64,
    max_in_flight_per_client=16,
    max_parts=4096,  # a chat of many turns; no model has room for so many pictures
    max_in_flight_bytes=512 * MIB,  # one largest message, or twenty raw 4K screenshots
)


def check_frames(frames: Sequence[memoryview], limits: Limits) -> None:
    """Raise `ProtocolError` unless `frames` is a header and no more binary frames, and bytes, than allowed."""
    if not frames or not frames[0].nbytes:
        raise ProtocolError("the first frame must be a header; use a DEALER socket (a REQ socket sends an empty one)")
    header, *binary = (frame.nbytes for frame in frames)
    if header > limits.max_header_bytes:
        raise ProtocolError(f"the header has {header} bytes; at most {limits.max_header_bytes} are taken")
    if len(binary) > limits.max_frames:
        raise ProtocolError(f"the message has {len(binary)} binary frames; at most {limits.max_frames} are taken")
    if binary and max(binary) > limits.max_frame_bytes:
        raise ProtocolError(f"a binary frame has {max(binary)} bytes; at most {limits.max_frame_bytes} are taken")
    if sum(binary) > limits.max_message_bytes:
        raise ProtocolError(f"the message has {sum(binary)} bytes; at most {limits.max_message_bytes} are taken")


def check_parts(message: Generate, limits: Limits) -> None:
    """Raise `ProtocolError` if a chat has more messages, parts and video frames than allowed.

    A part may use a frame that others use too, so the number of frames does not bound the work.
    """
    parts = [part for chat_message in message.messages for part in chat_message.content]
    count = len(message.messages) + len(parts) + sum(len(part.frames) for part in parts if isinstance(part, Video))
    if count > limits.max_parts:
        raise ProtocolError(
            f"the chat has {count} messages, parts and video frames; at most {limits.max_parts} are taken"
        )
