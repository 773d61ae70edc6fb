"""From token bytes to text, piece by piece, never half a character. Knows nothing of tokens or channels."""

from __future__ import annotations

import codecs


class Utf8Stream:
    """Decodes bytes as they come; an incomplete character waits for its remaining bytes.

    Invalid bytes become U+FFFD. All pieces joined equal `whole.decode("utf-8", errors="replace")`, however the
    bytes were cut.
    """

    __slots__ = ("_decoder",)

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, data: bytes) -> str:
        """The text that `data` completes; the bytes of an unfinished character are kept."""
        return self._decoder.decode(data)

    def flush(self) -> str:
        """What the kept bytes stand for when nothing follows: U+FFFD or nothing. The stream starts afresh."""
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return text
