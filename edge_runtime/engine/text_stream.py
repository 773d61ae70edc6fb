"""Streams of text, cut anywhere: UTF-8 from bytes, up to a stop string, without the newlines around it."""

from __future__ import annotations

import codecs


class NewlineTrimmer:
    r"""`text.strip("\n")` of a stream: leading newlines are dropped, later ones wait for what follows them.

    The two sides are apart so that stop strings can be looked for between them: after the newlines that follow
    `</think>` are gone, before closing newlines are held back.
    """

    __slots__ = ("_held", "_started")

    def __init__(self) -> None:
        self._started = False
        self._held = ""

    def trim_start(self, text: str) -> str:
        """`text` without the newlines the stream starts with."""
        if not self._started:
            text = text.lstrip("\n")
            self._started = bool(text)
        return text

    def hold_end(self, text: str) -> str:
        """`text` without the newlines it ends with; they come before the next text, if any comes."""
        text = self._held + text
        body = text.rstrip("\n")
        self._held = text[len(body) :]
        return body

    def release(self) -> str:
        """The newlines that `hold_end` holds back; it does so no longer."""
        held, self._held = self._held, ""
        return held


class StopMatcher:
    """Lets text through up to the first stop string; no part of a stop string ever gets out.

    Text that could be the start of a stop string is kept until the next piece, or `flush`, decides. The match that is
    complete first wins; of several that end at the same character, the one that starts first: this depends on the text
    alone, not on how it was cut into pieces.
    """

    __slots__ = ("_held", "_longest", "_stops", "matched")

    def __init__(self, stops: tuple[str, ...]) -> None:
        """`stops`: the strings to stop at, none of them empty."""
        self._stops = stops
        self._longest = max(map(len, stops), default=0)
        self._held = ""
        self.matched = False
        """Whether a stop string was found; all text after it is dropped."""

    def feed(self, text: str) -> str:
        """The text that is now certain to come before any stop string. Sets `matched`."""
        if not self._stops:
            return text
        if self.matched:
            return ""
        text = self._held + text
        start = self._first_match(text)
        if start is not None:
            self.matched = True
            self._held = ""
            return text[:start]
        sure = len(text) - self._num_undecided(text)
        self._held = text[sure:]
        return text[:sure]

    def flush(self) -> str:
        """The kept text, at the end of the stream: no stop string followed."""
        held, self._held = self._held, ""
        return held

    def _first_match(self, text: str) -> int | None:
        """Where the winning stop string starts in `text`."""
        found = [(start + len(stop), start) for stop in self._stops if (start := text.find(stop)) >= 0]
        return min(found)[1] if found else None

    def _num_undecided(self, text: str) -> int:
        """Length of the longest end of `text` that begins a stop string."""
        for length in range(min(len(text), self._longest - 1), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0


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
