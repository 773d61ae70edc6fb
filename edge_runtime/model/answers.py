"""Answers as they were drawn, for prompts that bring them back as text. Knows nothing of chats or of the cache.

A model may draw other tokens for a text than the tokenizer makes of it, and a history with the tokenizer's would share
nothing with what is in the cache from there on. So an answer's tokens are remembered by the prompt they follow.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from edge_runtime.model.drawn_calls import DrawnCalls
from edge_runtime.model.latest import LatestDrawn, prompt_hash
from edge_runtime.model.thoughts import DrawnThoughts, DroppedThought, Thought
from edge_runtime.model.tokenizer import Tokenizer

MAX_ANSWERS = 1024
MAX_TOKENS = 1 << 18
"""Of all answers that are remembered: two megabytes."""


class DrawnAnswers:
    """The latest answers. Safe to use from several threads."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        end_ids: Collection[int],
        think_ids: tuple[int, int] | None = None,
        call_ids: tuple[int, int] | None = None,
    ) -> None:
        """`end_ids`: tokens that end an answer, and in a history follow it.

        `think_ids`: those around a thought; `call_ids`: those around a tool call.
        """
        self._tokenizer = tokenizer
        self._end_ids = np.array(sorted(end_ids), dtype=np.int64)
        self._answers: LatestDrawn[NDArray[np.int64]] = LatestDrawn(MAX_ANSWERS, MAX_TOKENS)
        self._thoughts = DrawnThoughts(tokenizer, end_ids, think_ids)
        self._calls = DrawnCalls(tokenizer, call_ids, think_ids)

    def note(self, prompt_ids: NDArray[np.int64], output_ids: tuple[int, ...], salt: bytes = b"") -> None:
        """Remember that `output_ids` were drawn after `prompt_ids`, in which an image is one token.

        They are found with an equal `salt`: 16 bytes, or none.
        Not with control tokens in it: what comes back as text never becomes structure (decision 50). Those around tool
        calls may be, and with them the end of a thought: they come back as structure (decision 73). A thought before
        an answer without calls is remembered apart, for `as_drawn`.
        """
        drawn = np.array(output_ids, dtype=np.int64)
        if len(drawn) and drawn[-1] in self._end_ids:
            drawn = drawn[:-1]
        if not len(drawn) or (self._has_controls(drawn) and not self._calls.has_only(drawn)):
            self._thoughts.note(prompt_ids, drawn, salt)
            return
        self._answers.note(prompt_ids, drawn, salt)

    def restore(self, ids: NDArray[np.int64], salt: bytes = b"") -> NDArray[np.int64]:
        """`ids` [T] of a prompt, an image being one token, with the answers in it that were drawn here as they were."""
        return self.as_drawn(ids, salt)[0]

    def as_drawn(
        self, ids: NDArray[np.int64], salt: bytes = b"", dropped: Sequence[int] = ()
    ) -> tuple[NDArray[np.int64], list[DroppedThought]]:
        """As `restore`, with the thoughts before answers that are marked, and where these are.

        `dropped`: for each message of the prompt the drop in which its thought has left; 0: none did.
        """
        answers = self._answers.known
        thoughts = self._thoughts.known if any(dropped) else {}
        digest, start, spans = prompt_hash(ids[:0], salt), 0, []
        for length in sorted({length for length, _ in (*answers, *thoughts)}):
            if length >= len(ids):
                break
            digest.update(ids[start:length].tobytes())
            start, key = length, (length, digest.digest())
            number = self._number(ids[length:], dropped) if key in thoughts else 0
            if number and self._said(ids, length, thoughts[key]):
                ids = self._with_thought(ids, length, thoughts[key])
                spans.append(DroppedThought(length, length + len(thoughts[key].thought), number))
            elif key in answers:
                ids = self._with(ids, length, answers[key])
        return ids, spans

    def _number(self, rest: NDArray[np.int64], dropped: Sequence[int]) -> int:
        """Of the message that `rest` of a prompt begins in: each message ends with one end token."""
        index = len(dropped) - int(np.isin(rest, self._end_ids).sum())
        return dropped[index] if 0 <= index < len(dropped) else 0

    def _said(self, ids: NDArray[np.int64], start: int, drawn: Thought) -> bool:
        """Whether the answer from `start` on is that of the thought, but for newlines around it."""
        said = self._until_end(ids, start)
        return not self._has_controls(said) and self._bytes(said).strip(b"\n") == self._bytes(drawn.answer).strip(b"\n")

    def _with_thought(self, ids: NDArray[np.int64], start: int, drawn: Thought) -> NDArray[np.int64]:
        behind = start + len(self._until_end(ids, start))
        return np.concatenate((ids[:start], drawn.thought, drawn.answer, ids[behind:]))

    def _until_end(self, ids: NDArray[np.int64], start: int) -> NDArray[np.int64]:
        """From `start` on up to an end token."""
        ends = np.flatnonzero(np.isin(ids[start:], self._end_ids))
        return ids[start : start + ends[0]] if len(ends) else ids[:0]

    def spans(self, ids: NDArray[np.int64], salt: bytes = b"") -> list[tuple[int, int]]:
        """Where in `ids`, which `as_drawn` gave, answers, with the thoughts there, are remembered: start and end."""
        known = [self._answers.known]
        known.append({key: np.concatenate((one.thought, one.answer)) for key, one in self._thoughts.known.items()})
        found = []
        for length in sorted({length for answers in known for length, _ in answers if length < len(ids)}):
            key = length, prompt_hash(ids[:length], salt).digest()
            drawn = [answers[key] for answers in known if key in answers]
            found += [(length, length + len(one)) for one in drawn if np.array_equal(ids[length:][: len(one)], one)]
        return found

    def _with(self, ids: NDArray[np.int64], start: int, drawn: NDArray[np.int64]) -> NDArray[np.int64]:
        """`ids` with `drawn` from `start` on, if they say the same there: text and tool calls, up to an end token."""
        said = self._until_end(ids, start)
        if self._calls.has_only(drawn):
            stays = not self._calls.say_the_same(said, drawn)
        else:
            stays = self._has_controls(said) or self._bytes(said) != self._bytes(drawn)
        return ids if stays else np.concatenate((ids[:start], drawn, ids[start + len(said) :]))

    def _has_controls(self, ids: NDArray[np.int64]) -> bool:
        """Whether tokens are among them that are matched as whole strings: control tokens, images."""
        return bool(np.isin(ids, self._tokenizer.added_ids).any())

    def _bytes(self, ids: NDArray[np.int64]) -> bytes:
        return self._tokenizer.detokenize(ids.tolist())
