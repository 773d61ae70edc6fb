r"""Tells reasoning from answer by the `<think>` and `</think>` tokens. Knows nothing of text to be stopped or sent.

Newlines: Qwen's own parser (model card of Qwen3, "Quickstart") cuts at `</think>` and strips `\n` from both sides of
both parts. Here the same holds of streams: see `NewlineTrimmer`.
"""

from __future__ import annotations

from edge_runtime.engine.events import Channel


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
