"""What one message, one client and a server may have at most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from edge_runtime.errors import ProtocolError

if TYPE_CHECKING:
    from edge_runtime.serving.messages import ChatMessage

_MIB = 2**20


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one message, one client and the server may have at most; checked before anything is decoded."""

    max_frame_bytes: int = 128 * _MIB  # a raw 8K picture is 95 MiB
    max_message_bytes: int = 512 * _MIB
    max_frames: int = 1024
    max_header_bytes: int = 4 * _MIB
    max_in_flight: int = 64
    max_in_flight_per_client: int = 16
    max_parts: int = 4096  # a chat of many turns; no model has room for so many pictures
    max_in_flight_bytes: int = 512 * _MIB  # one largest message, or twenty raw 4K screenshots

    def check_frames(self, frames: Sequence[memoryview]) -> None:
        """Raise `ProtocolError` unless `frames` is a header and no more binary frames, and bytes, than allowed."""
        if not frames or not frames[0].nbytes:
            raise ProtocolError(
                "the first frame must be a header; use a DEALER socket (a REQ socket sends an empty one)"
            )
        header, *binary = (frame.nbytes for frame in frames)
        for what, count, most in (
            (f"the header has {header} bytes", header, self.max_header_bytes),
            (f"the message has {len(binary)} binary frames", len(binary), self.max_frames),
            (f"a binary frame has {max(binary, default=0)} bytes", max(binary, default=0), self.max_frame_bytes),
            (f"the message has {sum(binary)} bytes", sum(binary), self.max_message_bytes),
        ):
            if count > most:
                raise ProtocolError(f"{what}; at most {most} are taken")

    def check_parts(self, messages: Sequence[ChatMessage]) -> None:
        """Raise `ProtocolError` if a chat has more messages, parts and video frames than allowed.

        A part may use a frame that others use too, so the number of frames does not bound the work.
        """
        parts = [part for message in messages for part in message.content]
        count = len(messages) + len(parts) + sum(len(getattr(part, "frames", ())) for part in parts)
        if count > self.max_parts:
            raise ProtocolError(
                f"the chat has {count} messages, parts and video frames; at most {self.max_parts} are taken"
            )


DEFAULT_LIMITS = Limits()
