r"""What the tokens of one answer say: bytes to text, text to channels, up to the first stop string.

The path of a token: think tokens switch the channel and are never shown; the bytes of all others become text of the
current channel. Reasoning, and the answer that follows it, lose the newlines around them, as in Qwen's own parser
(model card of Qwen3, "Quickstart", which cuts at `</think>` and strips `\n`); an answer without any reasoning is left
exactly as it was drawn. Stop strings are looked for in the answer only: callers choose them for the text they want, and
a model that thinks in lines would never get past the stop string "\n".
"""

from __future__ import annotations

import codecs

from edge_runtime.engine.events import Channel


class Transcript:
    """The text of one answer as it grows. Knows nothing of models, requests or time."""

    __slots__ = ("_answer", "_answer_trim", "_bytes", "_reasoning", "_reasoning_trim", "_stop", "_switch")

    def __init__(
        self, think_token_ids: tuple[int, int] | None, starts_in_reasoning: bool, stop: tuple[str, ...] = ()
    ) -> None:
        """`think_token_ids`: ids of `<think>` and `</think>`; None where the model has none."""
        self._switch = ChannelSwitch(think_token_ids, starts_in_reasoning)
        self._bytes = Utf8Stream()
        self._stop = StopMatcher(stop)
        self._answer_trim = NewlineTrimmer()
        self._reasoning_trim = NewlineTrimmer()
        self._answer: list[str] = []
        self._reasoning: list[str] = []

    @property
    def text(self) -> str:
        """All text of the answer channel that was let out."""
        return "".join(self._answer)

    @property
    def reasoning(self) -> str:
        """All text of the reasoning channel that was let out."""
        return "".join(self._reasoning)

    @property
    def channel(self) -> Channel:
        """The channel of the next token."""
        return self._switch.channel

    @property
    def stopped(self) -> bool:
        """Whether a stop string was found; nothing more is let out."""
        return self._stop.matched

    def feed(self, token_id: int, data: bytes) -> tuple[Channel, str]:
        """Take a token and its bytes; return the channel it belongs to and the text it completes there, maybe none."""
        channel = self._switch.channel
        text = self._bytes.flush() if self._switch.feed(token_id) else self._bytes.feed(data)
        return channel, self._show(channel, text)

    def finish(self) -> list[tuple[Channel, str]]:
        """End of the answer: return what was held back, by channel."""
        channel = self._switch.channel
        pieces = [(channel, self._show(channel, self._bytes.flush()))]
        if not self.stopped:
            pieces.append(("answer", self._let_out_answer(self._stop.flush())))
        return pieces

    def _show(self, channel: Channel, text: str) -> str:
        """Pass new text of `channel` through its filters; what comes out is kept and returned."""
        if channel == "answer":
            if self._switch.has_reasoned:
                text = self._answer_trim.trim_start(text)
            return self._let_out_answer(self._stop.feed(text))
        shown = self._reasoning_trim.hold_end(self._reasoning_trim.trim_start(text))
        self._reasoning.append(shown)
        return shown

    def _let_out_answer(self, text: str) -> str:
        if self._switch.has_reasoned:
            text = self._answer_trim.hold_end(text)
        self._answer.append(text)
        return text


class ChannelSwitch:
    """Which channel the next token belongs to."""

    __slots__ = ("_think_token_ids", "channel", "has_reasoned")

    def __init__(self, think_token_ids: tuple[int, int] | None, starts_in_reasoning: bool) -> None:
        """`think_token_ids`: ids of `<think>` and `</think>`; None where the model has none."""
        self._think_token_ids = think_token_ids
        self.channel: Channel = "reasoning" if starts_in_reasoning else "answer"
        self.has_reasoned = starts_in_reasoning
        """Whether any token so far was, or might have been, reasoning."""

    def feed(self, token_id: int) -> bool:
        """Whether the token is a think token, which is never shown; `channel` is then that of what follows."""
        if self._think_token_ids is None or token_id not in self._think_token_ids:
            return False
        self.channel = "reasoning" if token_id == self._think_token_ids[0] else "answer"
        self.has_reasoned = self.has_reasoned or self.channel == "reasoning"
        return True


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
