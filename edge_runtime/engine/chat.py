"""The state of one chat in flight: the log of its tokens, its room in the cache, what it has said, and its clock.

The engine owns it, the scheduler moves it between queues. Its phase is not stored: it follows from the facts.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_runtime.engine.events import Channel, Delta, Finished, FinishReason, Timings, TokenLogprob
from edge_runtime.engine.model_runner import MediaTimings, Step
from edge_runtime.engine.repetition import RepetitionDetector
from edge_runtime.engine.request import GenerationRequest
from edge_runtime.engine.sampling import Sampler, token_logprob
from edge_runtime.engine.token_log import TokenLog
from edge_runtime.engine.transcript import Transcript
from edge_runtime.model.cancellation import CancelToken
from edge_runtime.model.kv_cache import Checkpoint, KVLease


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
        "_repetition",
        "_sampler",
        "_unsent_ids",
        "_unsent_logprobs",
        "cancel",
        "client",
        "clock",
        "lease",
        "log",
        "num_vision_reused",
        "prefill_chunk",
        "request",
        "transcript",
    )

    def __init__(
        self,
        request: GenerationRequest,
        log: TokenLog,
        transcript: Transcript,
        clock: Clock,
        cancel: CancelToken,
        prefill_chunk: int,
    ) -> None:
        """`log` and `transcript` are this chat's alone; `prefill_chunk`: tokens of its prompt that run at a time.

        `request.options.max_tokens` is a number by now: the engine has filled in what the context has room for.
        """
        self.request = request
        self.log = log
        self.transcript = transcript
        self.clock = clock
        self.cancel = cancel
        self.client: Hashable = None
        """Who asked: clients take turns."""
        self.prefill_chunk = prefill_chunk
        self.lease: KVLease | None = None
        self.num_vision_reused = 0
        """Images and frame pairs whose vision did not run, because it had before."""
        self._repetition = RepetitionDetector() if request.options.stop_on_repetition else None
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
        """Tokens of its next run: a chunk of the prompt, or the last one drawn."""
        left = self.log.num_prompt - self.num_cached
        return min(left, self.prefill_chunk) if left > 0 else 1

    @property
    def repeats(self) -> bool:
        """Whether the answer only repeats itself and the request wants such an answer to end."""
        return self._repetition is not None and self._repetition.repeats

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
        """The run of the next `num_tokens` of the log that are not cached yet; logits only where the log ends."""
        assert self.lease is not None
        stop = self.num_cached + num_tokens
        token_ids = self.log.ids(self.num_cached, stop)
        return Step(self.log, token_ids, self.lease, int(stop == len(self.log)), self.cancel)

    def take(self, lease: KVLease) -> None:
        """Begin to run, with what `lease` has of this chat already."""
        self.lease = lease
        self.num_vision_reused = self.log.skip_features(lease.num_reused)

    def settle(self, block_size: int) -> None:
        """After a run: let go of features that are in the cache, and let others use the whole blocks that are."""
        assert self.lease is not None
        self.log.drop_features(self.num_cached, self.prefill_chunk)
        num_blocks = self.num_cached // block_size
        if num_blocks > self.lease.num_committed:
            self.lease.commit(self.log.keys(block_size, num_blocks))

    def leave(self, block_size: int) -> None:
        """Give the room back; others may copy what its last block holds, and the one where its prompt ends."""
        assert self.lease is not None
        for index in {(self.log.num_prompt - 1) // block_size, self.num_cached // block_size}:
            num_tokens = self.num_cached - index * block_size
            if num_tokens > 0:
                self.lease.commit_part(index, self.log.parts(block_size, index)[:num_tokens])
        self.lease.free()

    def checkpoint(self) -> Checkpoint:
        """Where it stands before a run, for `restore` if that fails."""
        assert self.lease is not None
        return self.lease.checkpoint()

    def restore(self, checkpoint: Checkpoint) -> None:
        """Forget what a failed run has left in the cache."""
        assert self.lease is not None
        self.lease.restore(checkpoint)

    def draw(self, logits: NDArray[np.float32]) -> int:
        """Choose the next token from `logits` [V] and add it to the log. Raises `InternalError` for NaN logits."""
        token_id = self._sampler.draw(logits)
        if not self.log.num_output:
            self.clock.first_token_s = time.perf_counter()
        self.log.append(token_id)
        self._unsent_ids.append(token_id)
        if self._repetition is not None:
            self._repetition.feed(token_id)
        if self.request.options.num_logprobs is not None:
            self._unsent_logprobs.append(token_logprob(logits, token_id, self.request.options.num_logprobs))
        return token_id

    def say(self, token_id: int, data: bytes) -> list[Delta]:
        """Take the bytes of the token just drawn; return the delta it completes, if any."""
        channel, text = self.transcript.feed(token_id, data)
        return [self._delta(channel, text)] if text else []

    def finish(self, reason: FinishReason) -> list[Delta | Finished]:
        """The last events: what was held back, the tokens no delta has carried yet, and the end."""
        pieces = [(channel, text) for channel, text in self.transcript.finish() if text]
        if not pieces and self._unsent_ids:
            pieces = [(self.transcript.channel, "")]
        ended = Finished(
            request_id=self.request.request_id,
            text=self.transcript.text,
            reasoning=self.transcript.reasoning,
            token_ids=self.log.output_ids,
            finish_reason=reason,
            timings=self._timings(),
            images=self.log.images,
        )
        return [*(self._delta(channel, text) for channel, text in pieces), ended]

    def _delta(self, channel: Channel, text: str) -> Delta:
        """A delta that carries all tokens since the last one."""
        logprobs = None if self.request.options.num_logprobs is None else tuple(self._unsent_logprobs)
        delta = Delta(self.request.request_id, text, channel, tuple(self._unsent_ids), logprobs)
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
            output_tokens=self.log.num_output,
        )
