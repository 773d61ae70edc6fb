r"""What the tokens of one answer say: bytes to text, text to channels, up to the first stop string.

The path of a token: think tokens switch the channel and are never shown; the bytes of all others become text of the
current channel. Reasoning, and the answer that follows it, lose the newlines around them, as in Qwen's own parser; an
answer without any reasoning is left exactly as it was drawn. Stop strings are looked for in the answer only: callers
choose them for the text they want, and a model that thinks in lines would never get past the stop string "\n".
"""

from __future__ import annotations

from edge_runtime.engine.detokenizer import Utf8Stream
from edge_runtime.engine.events import Channel
from edge_runtime.engine.stopping import StopMatcher
from edge_runtime.engine.thinking import ChannelSwitch, NewlineTrimmer


class Transcript:
    """The text of one answer as it grows. Knows nothing of models, requests or time."""

    __slots__ = ("_answer", "_answer_trim", "_bytes", "_reasoning", "_reasoning_trim", "_stop", "_switch")

    def __init__(self, switch: ChannelSwitch, stop: tuple[str, ...]) -> None:
        self._switch = switch
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
