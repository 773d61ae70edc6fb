"""The state of one chat in flight: the log of its tokens, its room in the cache, what it has said, and its clock.

The engine owns it, the scheduler moves it between queues. Its phase is not stored: it follows from the facts.
"""

from __future__ import annotations

import enum
import logging
import time
from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_runtime.engine.control import Control
from edge_runtime.engine.events import Delta, Finished, FinishReason, Timings, TokenLogprob
from edge_runtime.engine.model_runner import MediaTimings, Step
from edge_runtime.engine.request import GenerationRequest
from edge_runtime.engine.sampling import Sampler, token_logprob
from edge_runtime.engine.speculation import Drafter
from edge_runtime.engine.token_log import TokenLog
from edge_runtime.engine.transcript import Said
from edge_runtime.model.cancellation import CancelToken
from edge_runtime.model.kv_cache import Checkpoint, KVLease

_log = logging.getLogger(__name__)


class Phase(enum.Enum):
    """What a chat needs next."""

    WAITING = "room in the KV cache"
    ENCODE = "the next image or video frame pair of its next chunk decoded and encoded"
    PREFILL = "the next chunk of its prompt run"
    DECODE = "its last token run and the next one drawn"


@dataclass(slots=True)
class Clock:
    """When a request passed its stages, in seconds of `time.perf_counter`, and sums of its runs in milliseconds."""

    submitted_s: float
    admitted_s: float = 0.0
    first_token_s: float = 0.0
    decode_image_ms: float = 0.0
    resize_ms: float = 0.0
    vision_ms: float = 0.0
    prefill_ms: float = 0.0

    def add(self, spent: MediaTimings) -> None:
        """Count the time of a part of a vision run."""
        self.decode_image_ms += spent.decode_image_ms
        self.resize_ms += spent.resize_ms
        self.vision_ms += spent.vision_ms


class Chat:
    """One request from when it is prepared to its last event."""

    __slots__ = (
        "_sampler",
        "_unsent_ids",
        "_unsent_logprobs",
        "cancel",
        "client",
        "clock",
        "control",
        "draft",
        "drafter",
        "lease",
        "log",
        "num_accepted",
        "num_drafted",
        "num_vision_reused",
        "prefill_chunk",
        "request",
    )

    def __init__(
        self,
        request: GenerationRequest,
        log: TokenLog,
        control: Control,
        clock: Clock,
        cancel: CancelToken,
        prefill_chunk: int,
    ) -> None:
        """`log` and `control` are this chat's alone; `prefill_chunk`: tokens of its prompt that run at a time.

        `request.options.max_tokens` is a number by now: the engine has filled in what the context has room for.
        """
        self.request = request
        self.log = log
        self.control = control
        self.clock = clock
        self.cancel = cancel
        self.client: Hashable = None
        """Who asked: clients take turns."""
        self.prefill_chunk = prefill_chunk
        self.lease: KVLease | None = None
        self.num_vision_reused = 0
        """Images and frame pairs whose vision did not run, because it had before."""
        self.draft = log.ids(0, 0)
        """Tokens [n] that may come next; they are run with what is in the log, to be drawn or not."""
        self.drafter: Drafter | None = None
        """Guesses such tokens; None: nobody does."""
        self.num_drafted = self.num_accepted = 0
        self._sampler = Sampler(request.options, log.input_ids)
        self._unsent_ids: list[int] = []
        self._unsent_logprobs: list[TokenLogprob] = []

    @property
    def phase(self) -> Phase:
        """What this chat needs next."""
        if self.lease is None:
            return Phase.WAITING
        if self.num_cached >= self.log.num_prompt:
            return Phase.DECODE
        return Phase.ENCODE if self.log.lacks_features(self.num_cached + self.num_next) else Phase.PREFILL

    @property
    def num_next(self) -> int:
        """Tokens of its next run: a chunk of the prompt, or the last ones of the log, mostly one."""
        end = self.log.num_prompt if self.num_cached < self.log.num_prompt else len(self.log)
        return min(end - self.num_cached, self.prefill_chunk)

    @property
    def num_cached(self) -> int:
        """Tokens of the log, prompt then output, that are in the KV cache."""
        return 0 if self.lease is None else self.lease.length

    @property
    def max_context(self) -> int:
        """Room the chat may come to need, in tokens: prompt plus the longest answer asked for."""
        return self.log.num_prompt + self.max_tokens

    @property
    def max_tokens(self) -> int:
        """How long the answer may become."""
        assert self.request.options.max_tokens is not None
        return self.request.options.max_tokens

    def step(self, num_tokens: int) -> Step:
        """The run of the next `num_tokens` of the log that are not cached yet.

        Where the log ends, the draft follows: logits are wanted of the last token and of each in the draft.
        """
        assert self.lease is not None
        stop = self.num_cached + num_tokens
        token_ids = self.log.ids(self.num_cached, stop)
        if stop < len(self.log):
            return Step(self.log, token_ids, self.lease, 0, self.cancel)
        token_ids = np.concatenate((token_ids, self.draft)) if len(self.draft) else token_ids
        return Step(self.log, token_ids, self.lease, 1 + len(self.draft), self.cancel)

    def take(self, lease: KVLease) -> None:
        """Begin to run, with what `lease` has of this chat already."""
        self.lease = lease
        self.num_vision_reused = self.log.skip_features(lease.num_reused)

    def settle(self, block_size: int) -> None:
        """After a run: let go of features that are in the cache, and let others use the whole blocks that are."""
        assert self.lease is not None
        num_sure = min(self.num_cached, len(self.log))  # and not the draft
        self.log.drop_features(num_sure, self.prefill_chunk)
        num_blocks = num_sure // block_size
        if num_blocks > self.lease.num_committed:
            self.lease.commit(self.log.keys(block_size, num_blocks))

    def leave(self, block_size: int) -> None:
        """Give the room back; others may copy what its last block holds, and the one where its prompt ends."""
        assert self.lease is not None
        try:
            self.keep(len(self.log))
            self.settle(block_size)
            for index in {(self.log.num_prompt - 1) // block_size, self.num_cached // block_size}:
                num_tokens = self.num_cached - index * block_size
                if num_tokens > 0:
                    self.lease.commit_part(index, self.log.parts(block_size, index)[:num_tokens])
        except Exception:  # noqa: BLE001 (what it has computed is lost to others, but the room is not)
            _log.exception("what request %r has left cannot be used again", self.request.request_id)
        self.lease.free()

    def checkpoint(self) -> Checkpoint:
        """Where it stands before a run, for `restore` if that fails."""
        assert self.lease is not None
        return self.lease.checkpoint()

    def restore(self, checkpoint: Checkpoint) -> None:
        """Forget what a failed run has left in the cache."""
        assert self.lease is not None
        self.lease.restore(checkpoint)

    def guess(self, most: int, num_chats: int, num_rows: int) -> int:
        """Choose the draft of the next run, at most `most` tokens; return its length.

        The run has `num_rows` rows of `num_chats` chats without it.
        """
        most = max(0, min(most, self.max_tokens - self.log.num_output - 1))
        self.draft = np.array(self.control.all_forced[:most], dtype=np.int64)
        reaches_end = self.num_cached + self.num_next == len(self.log)
        if self.drafter is not None and self.drafter.is_due and reaches_end and not len(self.draft):
            known = self.log.ids(0, len(self.log))
            self.draft = self.drafter.draft(known, most, num_chats, num_rows, self.control.fits)
        self.num_drafted += len(self.draft)
        return len(self.draft)

    def came_true(self, start: int) -> int:
        """How many tokens of the draft, which was of the tokens from index `start` on, are now in the log."""
        came = self.log.ids(start, start + len(self.draft))
        differ = np.flatnonzero(came != self.draft[: len(came)])
        return int(differ[0]) if len(differ) else len(came)

    def keep(self, length: int) -> None:
        """Take what is cached behind the first `length` tokens back: it was a draft that did not come true."""
        assert self.lease is not None
        if self.lease.length > length:
            self.lease.truncate(length)

    def forced(self) -> int | None:
        """The next token, where there is no choice."""
        token_id = self.control.forced
        if token_id is not None:
            self._sampler.note(token_id)
        return token_id

    def draw(self, logits: NDArray[np.float32]) -> int:
        """Choose the next token from `logits` [V]. Raises `InternalError` for NaN logits."""
        return self._sampler.draw(logits)

    def add(self, token_id: int, data: bytes, *, is_end: bool, logits: NDArray[np.float32] | None) -> list[Delta]:
        """Add the next token to the log; `data` are its bytes. Return the delta that these complete, if any.

        `logits` [V] that it came from, where log-probabilities are wanted.
        """
        if not self.log.num_output:
            self.clock.first_token_s = time.perf_counter()
        self.log.append(token_id)
        self._unsent_ids.append(token_id)
        if logits is not None and self.request.options.num_logprobs is not None:
            self._unsent_logprobs.append(token_logprob(logits, token_id, self.request.options.num_logprobs))
        said = self.control.take(token_id, data, is_end=is_end)
        return [self._delta(said)] if said.is_something else []

    def finish(self, reason: FinishReason) -> list[Delta | Finished]:
        """The last events: what was held back, the tokens no delta has carried yet, and the end."""
        transcript = self.control.transcript
        pieces = [said for said in transcript.finish() if said.is_something]
        if not pieces and self._unsent_ids:
            pieces = [Said(transcript.channel, "")]
        ended = Finished(
            request_id=self.request.request_id,
            text=transcript.text,
            reasoning=transcript.reasoning,
            token_ids=self.log.output_ids,
            finish_reason="tool_calls" if reason == "stop" and transcript.tool_calls else reason,
            timings=self._timings(),
            thought_end=self.control.thought_end,
            thought_repeats=self.control.thought_repeats,
            images=self.log.images,
            tool_calls=transcript.tool_calls,
            malformed_calls=transcript.malformed_calls,
        )
        return [*map(self._delta, pieces), ended]

    def _delta(self, said: Said) -> Delta:
        """A delta that carries all tokens since the last one."""
        logprobs = None if self.request.options.num_logprobs is None else tuple(self._unsent_logprobs)
        delta = Delta(self.request.request_id, said.text, said.channel, tuple(self._unsent_ids), logprobs, said.call)
        self._unsent_ids.clear()
        self._unsent_logprobs.clear()
        return delta

    def _timings(self) -> Timings:
        clock, now_s = self.clock, time.perf_counter()
        num_reused = 0 if self.lease is None else self.lease.num_reused
        return Timings(
            queue_ms=1e3 * (clock.admitted_s - clock.submitted_s),
            decode_image_ms=clock.decode_image_ms,
            resize_ms=clock.resize_ms,
            vision_ms=clock.vision_ms,
            prefill_ms=clock.prefill_ms,
            decode_ms=1e3 * (now_s - clock.first_token_s),
            first_token_ms=1e3 * (clock.first_token_s - clock.submitted_s),
            total_ms=1e3 * (now_s - clock.submitted_s),
            prompt_tokens=self.log.num_prompt,
            image_tokens=self.log.image_tokens,
            cached_tokens=num_reused,
            computed_tokens=self.log.num_prompt - num_reused,
            vision_cached=self.num_vision_reused,
            unchanged_images=self.request.num_unchanged,
            output_tokens=self.log.num_output,
            reasoning_tokens=self.control.num_thoughts,
            forced_tokens=self.control.num_forced,
            drafted_tokens=self.num_drafted,
            accepted_tokens=self.num_accepted,
        )
