"""Stop strings over a stream of text. Knows nothing of tokens.

The match that is complete first wins; of several that end at the same character, the one that starts first.
This depends on the text alone, not on how it was cut into pieces.
"""

from __future__ import annotations


class StopMatcher:
    """Lets text through up to the first stop string; no part of a stop string ever gets out.

    Text that could be the start of a stop string is kept until the next piece, or `flush`, decides.
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
