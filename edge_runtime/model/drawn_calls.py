r"""Whether a history says the tool calls that were drawn. Knows nothing of chats or of prompts.

A template prints a call's arguments from what their JSON says, so a history may spell them otherwise than the model
did: `{"x": 1e2}` comes back as `{"x": 100.0}`. What counts is that tokens around calls stand where they stood, that
each call says the same JSON, and that the text around them is the same but for line breaks next to a call. So no text
becomes a call, and no call another one.
"""

from __future__ import annotations

import json

import numpy as np
from numpy.typing import NDArray

from edge_runtime.model.tokenizer import Tokenizer
from edge_runtime.model.tools import json_value


class DrawnCalls:
    """Compares answers with tool calls in them."""

    def __init__(
        self, tokenizer: Tokenizer, call_ids: tuple[int, int] | None, think_ids: tuple[int, int] | None = None
    ) -> None:
        """`call_ids`: the tokens around a call, without which there are none; `think_ids`: those around a thought."""
        self._tokenizer = tokenizer
        self._call_ids = call_ids
        self._think_end = None if think_ids is None else think_ids[1]

    def has_only(self, ids: NDArray[np.int64]) -> bool:
        """Whether the control tokens in an answer are just those around calls: at least one, opened and closed.

        Before them may be the end of a thought that the prompt has opened.
        """
        if self._call_ids is None:
            return False
        controls = ids[np.isin(ids, self._tokenizer.added_ids)].tolist()
        if controls and controls[0] == self._think_end:
            del controls[0]
        return bool(controls) and controls == list(self._call_ids) * (len(controls) // 2)

    def say_the_same(self, said: NDArray[np.int64], drawn: NDArray[np.int64]) -> bool:
        """Whether two answers, of which `drawn` has calls, have the same text and the same calls."""
        return self.has_only(said) and self._pieces(said) == self._pieces(drawn)

    def _pieces(self, ids: NDArray[np.int64]) -> list[str | bytes]:
        """The thought if there is one, text, what is in a call, text, ...: each in one spelling."""
        places = np.flatnonzero(np.isin(ids, self._tokenizer.added_ids))
        first, *others = np.split(ids, places)
        texts = [self._tokenizer.detokenize(piece.tolist()) for piece in (first, *(other[1:] for other in others))]
        thought = [texts.pop(0)] if ids[places[0]] == self._think_end else []
        texts[0] = texts[0].strip(b"\n") if thought else texts[0].rstrip(b"\n")
        inside = [_spelled_once(text) if at % 2 else text.strip(b"\n") for at, text in enumerate(texts[1:], 1)]
        return [*(text.strip(b"\n") for text in thought), texts[0], *inside]


def _spelled_once(call: bytes) -> str | bytes:
    try:
        return json.dumps(json_value(call.decode()))
    except ValueError:
        return call
