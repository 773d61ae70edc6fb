"""From the logits of a run to the next tokens of a chat, and what they say.

A run gives a row of logits for the last token of the log, and one for each token of the draft behind it. A row becomes
a token so: what may not come is masked (`control.py`), the likeliest are scored again, then penalties and the draw
(`sampling.py`). If that is the token that the draft had there, the next row is good, too. So a draft changes how many
tokens a run gives, and never which.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge_runtime.engine.chat import Chat
from edge_runtime.engine.events import Delta, FinishReason
from edge_runtime.engine.model_runner import ModelRunner, Step
from edge_runtime.engine.sampling import rescore
from edge_runtime.engine.scheduler import Plan
from edge_runtime.engine.speculation import Speculation
from edge_runtime.model.decoder import Logits
from edge_runtime.model.footprint import MAX_DRAFT_ROWS

_EVERY = 4
"""So many runs without a draft are as good as one of them to learn what they take."""
_Hidden = NDArray[np.float32] | None


class Drawing:
    """Draws the tokens of all chats of one model."""

    def __init__(self, runner: ModelRunner, *, speculates: bool) -> None:
        """`speculates`: whether tokens are guessed for requests that do not say."""
        self._runner = runner
        self._speculates = speculates
        self._num_runs = 0
        self._learns = False  # whether what the run takes is of interest
        self._speculation = Speculation(runner.placeholder_ids | runner.eos_token_ids)

    def begin(self, chat: Chat) -> None:
        """Guess tokens of `chat` from now on, if that is wanted."""
        wanted = chat.request.options.speculation
        if self._speculates if wanted is None else wanted:
            chat.drafter = self._speculation.drafter()

    def guess(self, plan: Plan) -> None:
        """Choose the drafts of the chats that decode in the run of `plan`."""
        num_rows, most = sum(num_tokens for _, num_tokens in plan.shares), MAX_DRAFT_ROWS
        for chat, _ in plan.shares[: plan.num_decoding]:
            num_drafted = chat.guess(most, len(plan.shares), num_rows)
            num_rows, most = num_rows + num_drafted, most - num_drafted
        self._num_runs += 1
        is_due = self._num_runs % _EVERY == 0 and any(chat.drafter is not None for chat, _ in plan.shares)
        self._learns = most < MAX_DRAFT_ROWS or is_due

    def took(self, steps: Sequence[Step], seconds: float, *, decodes_only: bool) -> None:
        """Learn what the run of `steps` took; `decodes_only`: nobody's prompt was in it."""
        if self._learns and not any(step.cancel.cancelled for step in steps):
            num_rows = sum(len(step.token_ids) for step in steps)
            self._speculation.costs.took(len(steps), num_rows, seconds, has_prompt=not decodes_only)

    def advance(self, chat: Chat, logits: Logits) -> tuple[list[Delta], FinishReason | None]:
        """Add the next tokens of `chat`, one or more; what they say, and why the answer ends there, if it does.

        What was cached of a draft that did not come true is taken back. Raises `InternalError` for logits that are no
        numbers, and as `Grammar.mask`.
        """
        start, came, reason = len(chat.log), 0, None
        deltas: list[Delta] = []
        while reason is None and came == len(chat.log) - start < len(logits.rows):
            hidden = None if logits.hidden is None else logits.hidden[came]
            reason = self._next(chat, logits.rows[came], hidden, deltas)
            came = chat.came_true(start)
        chat.num_accepted += came
        if chat.drafter is not None:
            chat.drafter.learn(chat.log.ids(0, len(chat.log)))
        chat.keep(start + came)
        return deltas, reason

    def _next(self, chat: Chat, row: NDArray[np.float32], hidden: _Hidden, deltas: list[Delta]) -> FinishReason | None:
        """Add the token that `row` [V] gives, and all that then have to come."""
        wants_logprobs = chat.request.options.num_logprobs is not None
        token_id, said = chat.forced(), row
        if wants_logprobs and (chat.control.is_guided or token_id is not None):
            said = row.copy()  # log-probabilities are the model's own, whatever it may say
            self._rescore(chat, said, hidden)
        if token_id is None:
            chat.control.mask(row)
            self._rescore(chat, row, hidden)  # spends its few candidates on what may come
            token_id = chat.draw(row)
            if token_id in self._runner.eos_token_ids and chat.control.ends_thought_instead():
                token_id = chat.forced() or token_id
        reason = self._add(chat, token_id, said, deltas)
        # Log-probabilities need a row for each: then what has to come is the draft of the next run.
        while reason is None and not wants_logprobs and (token_id := chat.forced()) is not None:
            reason = self._add(chat, token_id, None, deltas)
        return reason

    def _add(
        self, chat: Chat, token_id: int, logits: NDArray[np.float32] | None, deltas: list[Delta]
    ) -> FinishReason | None:
        """Add a token to the answer, which came from `logits` [V] or had to come."""
        is_eos = token_id in self._runner.eos_token_ids
        ends = is_eos and (chat.control.is_guided or not chat.request.options.ignore_eos)
        data = b"" if is_eos else self._runner.detokenize([token_id])
        deltas += chat.add(token_id, data, is_end=ends, logits=logits)
        if ends or chat.control.transcript.stopped or chat.control.is_complete:
            return "stop"
        if chat.log.num_output == chat.max_tokens:
            return "length"
        return "repetition" if chat.control.repeats else None

    def _rescore(self, chat: Chat, row: NDArray[np.float32], hidden: _Hidden) -> None:
        if hidden is not None:
            rescore(row, hidden, chat.request.options.top_k, self._runner.score)
