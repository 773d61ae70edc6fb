r"""What the tokens of one answer say: bytes to text, text to channels, up to the first stop string.

The path of a token: think tokens switch the channel and are never shown; the bytes of all others become text of the
current channel. Reasoning, and the answer that follows it, lose the newlines around them, as in Qwen's own parser
(model card of Qwen3, "Quickstart", which cuts at `</think>` and strips `\n`); an answer without any reasoning is left
exactly as it was drawn. Stop strings are looked for in the answer only: callers choose them for the text they want, and
a model that thinks in lines would never get past the stop string "\n".

Where tools were offered, the tokens around a call in the answer open and close it (`tool_calls.py`); in a thought they
are text. The line breaks that stand between a call and what is before it are the template's, and no text: one before
the first call, all between calls. What turns out to be no call is let out as text, as it was said. No stop string is
looked for in it, nor in a call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from edge_runtime.engine.events import Channel, ToolCallDelta
from edge_runtime.engine.text_stream import NewlineTrimmer, StopMatcher, Utf8Stream
from edge_runtime.engine.tool_calls import ToolCalls
from edge_runtime.model.tools import CALL_END, ToolCall, ToolDefinition


class Said(NamedTuple):
    """A piece of what an answer says."""

    channel: Channel
    text: str
    call: ToolCallDelta | None = None
    """In the channel "tool_call": which one."""

    @property
    def is_something(self) -> bool:
        """Whether there is anything to tell."""
        return bool(self.text) or self.call is not None


@dataclass(frozen=True, slots=True)
class Offered:
    """What an answer may call."""

    token_ids: tuple[int, int]
    """Those around a call."""
    names: frozenset[str]

    @classmethod
    def of(cls, token_ids: tuple[int, int] | None, tools: Sequence[ToolDefinition]) -> Offered | None:
        """`tools`; None where there are none, or no tokens for calls."""
        return None if token_ids is None or not tools else cls(token_ids, frozenset(tool.name for tool in tools))


class Transcript:
    """The text of one answer as it grows. Knows nothing of models, requests or time."""

    __slots__ = (
        *("_answer", "_answer_trim", "_before_call", "_bytes", "_call_ids", "_calls", "_reasoning", "_reasoning_trim"),
        *("_stop", "_switch"),
    )

    def __init__(
        self,
        think_token_ids: tuple[int, int] | None,
        starts_in_reasoning: bool,
        stop: tuple[str, ...] = (),
        tools: Offered | None = None,
    ) -> None:
        """`think_token_ids`: ids of `<think>` and `</think>`; None where the model has none.

        `tools`: None where what looks like a call is text like any.
        """
        self._switch = ChannelSwitch(think_token_ids, starts_in_reasoning)
        self._call_ids = None if tools is None else tools.token_ids
        self._calls = ToolCalls(() if tools is None else tools.names)
        self._before_call = ""  # line breaks before the one that is open, in case it is none
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
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """All calls that are complete."""
        return tuple(self._calls.complete)

    @property
    def malformed_calls(self) -> tuple[str, ...]:
        """What was wrong with what was to be a call and is none."""
        return tuple(self._calls.malformed)

    @property
    def channel(self) -> Channel:
        """The channel of the next token."""
        return "tool_call" if self._calls.is_open else self._switch.channel

    @property
    def stopped(self) -> bool:
        """Whether a stop string was found; nothing more is let out."""
        return self._stop.matched

    def feed(self, token_id: int, data: bytes) -> Said:
        """Take a token and its bytes; return the channel it belongs to and the text it completes there, maybe none."""
        channel = self.channel
        if self._call_ids is not None and channel != "reasoning" and token_id in self._call_ids:
            is_start = token_id == self._call_ids[0]
            if channel == "tool_call":
                return self._end_call(opens_another=is_start)
            if is_start:
                return Said("answer", self._begin_call())
        if channel == "tool_call":
            text, call = self._calls.feed(self._bytes.feed(data))
            return Said(channel, text, call)
        text = self._bytes.flush() if self._switch.feed(token_id) else self._bytes.feed(data)
        return Said(channel, self._show(channel, text))

    def finish(self) -> list[Said]:
        """End of the answer: return what was held back, by channel."""
        if self._calls.is_open:
            self._calls.feed(self._bytes.flush())
            self._calls.cut("the answer ended inside a call")
            return [Said("answer", self._take_back(""))]
        channel = self._switch.channel
        pieces = [Said(channel, self._show(channel, self._bytes.flush()))]
        if not self.stopped:
            pieces.append(Said("answer", self._let_out_answer(self._stop.flush())))
        if not self._switch.has_reasoned and not self._calls.complete:
            pieces.append(Said("answer", self._let_out_whole("")))
        return pieces

    def _begin_call(self) -> str:
        """Open a call; return the text before it that was held back."""
        text = self._show("answer", self._bytes.flush())
        if self.stopped:
            return text
        text += self._let_out_answer(self._stop.flush())
        breaks = self._answer_trim.release()
        if not self._switch.has_reasoned and not self._calls.complete:
            text += breaks[:-1]
            self._answer.append(breaks[:-1])
            breaks = breaks[-1:]
        self._before_call = breaks
        self._calls.open()
        return text

    def _end_call(self, *, opens_another: bool) -> Said:
        """Close the call that is open; if it is none, return what was said as text."""
        rest, call = self._calls.feed(self._bytes.flush())
        if opens_another:
            self._calls.cut("another call began inside a call")
            said = Said("answer", self._take_back(""))
            self._calls.open()
            return said
        closed = self._calls.close()
        if closed is None:
            return Said("answer", self._take_back())
        return Said("tool_call", rest + closed[0], call or closed[1])

    def _take_back(self, end: str = CALL_END) -> str:
        said, self._before_call = self._before_call + self._calls.take_back(end), ""
        return self._let_out_whole(said)

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
        if self._switch.has_reasoned or self._call_ids is not None:
            text = self._answer_trim.hold_end(text)
        self._answer.append(text)
        return text

    def _let_out_whole(self, text: str) -> str:
        """Let out `text` up to its last line break, behind what was held back."""
        text = self._answer_trim.release() + text
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
