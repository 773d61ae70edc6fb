"""What a client sends for a request: pictures, or their digests where the server has had them. Knows no sockets.

A server that no longer has what a digest stands for asks for the pictures; then the request is sent again, whole.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container
from dataclasses import dataclass

import msgspec
import numpy as np

from edge_runtime.errors import BadImage
from edge_runtime.model.conversation import Picture, PictureDigest
from edge_runtime.serving import messages as wire
from edge_runtime.serving.copies import PictureCopies
from edge_runtime.serving.limits import DEFAULT_LIMITS

_MAX_SENT = 4096
"""Pictures that a client remembers to have sent; a server knows about as many."""


class OutgoingFrames:
    """The binary frames of a message, as they are collected."""

    def __init__(self, copies: PictureCopies | None = None) -> None:
        """`copies`: those of earlier messages of the client."""
        self._copies = PictureCopies() if copies is None else copies
        self._copies.begin()
        self.data: list[bytes] = []
        self.digests: list[bytes | None] = []
        """Of each frame; None for those that are not worth it."""

    def add(self, picture: Picture) -> wire.Frame:
        """Append a picture, pixels as a copy. Raises `BadImage` for an array that is not uint8 [H, W, 3]."""
        if isinstance(picture, PictureDigest):
            return wire.Frame(digest=picture.digest)
        width = height = None
        if isinstance(picture, np.ndarray):
            if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
                found = f"an array of {picture.dtype} {list(picture.shape)}"
                raise BadImage(f"{found} is not a picture; wanted uint8 [H, W, 3], RGB")
            height, width = picture.shape[:2]
        copy = self._copies.of(picture)
        self.data.append(copy.data)
        self.digests.append(copy.digest)
        return wire.Frame(index=len(self.data) - 1, width=width, height=height)


@dataclass(frozen=True, slots=True, eq=False)
class Outgoing:
    """One message of a client: its header, encoded, and its binary frames."""

    header: bytes
    frames: tuple[bytes, ...] = ()
    digests: tuple[bytes | None, ...] = ()
    """Of each frame; None for those that always travel."""
    request: wire.Generate | None = None
    """What `header` says, if pictures in it may be named by digest: in a session only one that it shows last."""

    @classmethod
    def of(cls, message: wire.Generate | wire.Session, frames: OutgoingFrames) -> Outgoing:
        """A message whose parts refer to `frames`."""
        may_name = isinstance(message, wire.Generate) and (not message.session or message.skip_unchanged)
        request = message if isinstance(message, wire.Generate) and may_name else None
        return cls(wire.encode(message), tuple(frames.data), tuple(frames.digests), request)

    def whole(self) -> list[bytes]:
        """The message with all frames."""
        return [self.header, *self.frames]

    def without(self, known: Container[bytes]) -> list[bytes]:
        """The message with a digest in place of every frame that is `known`."""
        kept = [index for index, digest in enumerate(self.digests) if digest is None or digest not in known]
        if self.request is None or len(kept) == len(self.frames):
            return self.whole()
        places = {index: place for place, index in enumerate(kept)}
        messages = tuple(
            msgspec.structs.replace(message, content=tuple(self._part(part, places) for part in message.content))
            for message in self.request.messages
        )
        header = wire.encode(msgspec.structs.replace(self.request, messages=messages))
        if len(header) > DEFAULT_LIMITS.max_header_bytes:
            return self.whole()
        return [header, *(self.frames[index] for index in kept)]

    def _part(
        self, part: wire.Text | wire.Image | wire.Video, places: dict[int, int]
    ) -> wire.Text | wire.Image | wire.Video:
        if isinstance(part, wire.Image):
            return msgspec.structs.replace(part, frame=self._frame(part.frame, places))
        if isinstance(part, wire.Video):
            return msgspec.structs.replace(part, frames=tuple(self._frame(frame, places) for frame in part.frames))
        return part

    def _frame(self, frame: wire.Frame, places: dict[int, int]) -> wire.Frame:
        if frame.index is None:
            return frame
        if frame.index in places:
            return msgspec.structs.replace(frame, index=places[frame.index])
        return wire.Frame(digest=self.digests[frame.index])


class SentPictures:
    """What one connection has sent, by digest, and what its requests in flight may have to send again."""

    def __init__(self) -> None:
        self._takes_digests = False
        self._sent: OrderedDict[bytes, None] = OrderedDict()  # used last comes last
        self._short: dict[str, Outgoing] = {}  # in flight without all of their frames
        self._whole: dict[str, Outgoing] = {}  # in flight with them, and not accepted yet

    def message(self, request_id: str, outgoing: Outgoing) -> list[bytes]:
        """The frames of a request that is about to be sent."""
        message = outgoing.without(self._sent if self._takes_digests else ())
        self._note(request_id, outgoing, is_whole=len(message) == 1 + len(outgoing.frames))
        return message

    def accepted(self, request_id: str, takes_digests: bool) -> None:
        """The server has the frames that the request came with."""
        self._takes_digests = takes_digests
        outgoing = self._whole.pop(request_id, None) or self._short.get(request_id)
        for digest in outgoing.digests if outgoing is not None else ():
            if digest is not None:
                self._sent[digest] = None
                self._sent.move_to_end(digest)
        while len(self._sent) > _MAX_SENT:
            self._sent.popitem(last=False)

    def again(self, request_id: str) -> list[bytes] | None:
        """The frames of a request whose pictures the server needs; None if it has been sent all of them."""
        outgoing = self._short.get(request_id)
        if outgoing is None:
            return None
        self._note(request_id, outgoing, is_whole=True)
        return outgoing.whole()

    def ended(self, request_id: str) -> None:
        """Nothing of it has to be sent again: it has begun to be answered, or has ended."""
        self._short.pop(request_id, None)
        self._whole.pop(request_id, None)

    def _note(self, request_id: str, outgoing: Outgoing, *, is_whole: bool) -> None:
        self.ended(request_id)
        (self._whole if is_whole else self._short)[request_id] = outgoing
