"""What may come next in an answer, and what must: the answer's grammar, and the end of a thought.

    if (token_id := control.forced) is None:
        control.mask(logits)
        token_id = ...  # drawn
    said = control.take(token_id, data)

The grammar is of the answer alone: it begins behind the thought. Knows nothing of graphs or of the cache.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_runtime.engine.events import Channel, ThoughtEnd
from edge_runtime.engine.grammar import Grammar
from edge_runtime.engine.repetition import RepetitionDetector
from edge_runtime.engine.request import GenerationOptions
from edge_runtime.engine.transcript import Said, Transcript


@dataclass(frozen=True, slots=True)
class ThoughtTokens:
    """How a model's thoughts begin and end."""

    start: int
    """`<think>`"""
    closing: tuple[int, ...]
    """What is said to end one: a newline and `</think>`."""
    gap: tuple[int, ...]
    """What then stands before the answer: two newlines."""


class Control:
    """Follows one answer, token by token."""

    __slots__ = (
        "_forced",
        "_grammar",
        "_is_closing",
        "_is_guided",
        "_may_open_thought",
        "_most_thoughts",
        "_repetition",
        "_stops_repetition",
        "_thoughts",
        "num_forced",
        "num_thoughts",
        "thought_end",
        "thought_repeats",
        "transcript",
    )

    def __init__(
        self,
        transcript: Transcript,
        options: GenerationOptions,
        grammar: Grammar | None = None,
        thoughts: ThoughtTokens | None = None,
    ) -> None:
        """`thoughts`: None where the model has none."""
        self.transcript = transcript
        """What was said."""
        thinks = transcript.channel == "reasoning"
        self._grammar = grammar
        self._thoughts = thoughts
        self._most_thoughts = options.most_thoughts
        self._stops_repetition = options.stop_on_repetition
        self._repetition = RepetitionDetector()
        self._forced: deque[int] = deque()
        self._is_closing = False
        self._is_guided = grammar is not None and not thinks
        # A model that opens its thoughts itself can do so, where it is asked to, before what the grammar is about.
        self._may_open_thought = self._is_guided and thoughts is not None and options.enable_thinking is True
        self.num_forced = 0
        """Tokens that came without being drawn."""
        self.num_thoughts = 0
        """Tokens of the thought."""
        self.thought_end: ThoughtEnd = ""
        """What ended it."""
        self.thought_repeats = False
        """Whether it only repeated itself, at its end."""
        if thinks and self._most_thoughts == 0:
            self._close_thought("budget")
        elif not thinks and not self._may_open_thought:
            self._look_ahead()

    @property
    def forced(self) -> int | None:
        """The next token, where there is no choice."""
        return self._forced[0] if self._forced else None

    @property
    def all_forced(self) -> tuple[int, ...]:
        """The next tokens up to the first that is a choice."""
        return tuple(self._forced)

    @property
    def is_complete(self) -> bool:
        """Whether the grammar lets nothing follow."""
        return self._is_guided and self._grammar is not None and self._grammar.is_complete

    @property
    def repeats(self) -> bool:
        """Whether the answer only repeats itself and the request wants such an answer to end."""
        return self._stops_repetition and self._repetition.repeats

    @property
    def is_guided(self) -> bool:
        """Whether the grammar has a say in the next token."""
        return self._is_guided

    def mask(self, logits: NDArray[np.float32]) -> None:
        """Set the `logits` [V] of what may not come next to -inf, in place. Raises as `Grammar.mask`."""
        if not self._is_guided or self._grammar is None:
            return
        if not self._may_open_thought or self._thoughts is None:
            self._grammar.mask(logits)
            return
        logit = logits[self._thoughts.start]
        self._grammar.mask(logits)
        logits[self._thoughts.start] = logit

    def fits(self, draft: NDArray[np.int64]) -> int:
        """How many of the tokens of `draft` may come next."""
        return self._grammar.fits(draft) if self._is_guided and self._grammar is not None else len(draft)

    def take(self, token_id: int, data: bytes, *, is_end: bool = False) -> Said:
        """Take the next token and its bytes; return the channel it belongs to and the text it completes, maybe none."""
        was = self.transcript.channel
        said = self.transcript.feed(token_id, data)
        if not is_end:
            self._follow(token_id, was, self.transcript.channel)
        return said

    def _follow(self, token_id: int, was: Channel, now: Channel) -> None:
        if self._stops_repetition or was == "reasoning":
            self._repetition.feed(token_id)
        was_forced = bool(self._forced)
        if was_forced:
            self._forced.popleft()
            self.num_forced += 1
        if was == "reasoning" and now == "reasoning":
            self._went_on_thinking(was_forced)
        elif was == "reasoning":
            self._ended_thought(was_forced)
        elif now == "reasoning":
            self._is_guided = False
        elif self._is_guided and self._grammar is not None:
            self._grammar.take(token_id)
        self._may_open_thought = False
        if now != "reasoning":
            self._look_ahead()

    def ends_thought_instead(self) -> bool:
        """An end token was drawn: inside a thought, with an answer to come, close that; say whether it was so."""
        if self._grammar is None or self.transcript.channel != "reasoning":
            return False
        self._close_thought("itself")
        return True

    def _went_on_thinking(self, was_forced: bool) -> None:
        if was_forced:
            return
        self.num_thoughts += 1
        self.thought_repeats |= self._repetition.repeats
        if self._most_thoughts is not None and self.num_thoughts >= self._most_thoughts:
            self._close_thought("budget")
        elif self._stops_repetition and self._repetition.repeats:
            self._close_thought("repetition")

    def _close_thought(self, why: ThoughtEnd) -> None:
        assert self._thoughts is not None
        self._forced.extend(self._thoughts.closing + self._thoughts.gap)
        self._repetition = RepetitionDetector()  # what is forced now is no repetition
        self.thought_end = why

    def _ended_thought(self, was_forced: bool) -> None:
        self._repetition = RepetitionDetector()  # the answer has its own
        if not was_forced:
            self.thought_end = "itself"
            if self._grammar is not None and self._thoughts is not None:
                self._forced.extend(self._thoughts.gap)

    def _look_ahead(self) -> None:
        """Behind a thought and its gap the grammar begins; where it leaves no choice, that is known at once."""
        if self._grammar is not None and not self._forced:
            self._is_guided = True
            self._forced.extend(self._grammar.forced())
