"""The state of one chat in flight: its prompt, its room in the cache, the tokens drawn so far, and its clock.

The engine owns it, the scheduler moves it between queues. Its phase is not stored: it follows from the facts.
"""

from __future__ import annotations

import enum
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_runtime.engine.events import Channel, Delta, Finished, FinishReason, Timings, TokenLogprob
from edge_runtime.engine.model_runner import MediaTimings, PreparedPrompt, Step
from edge_runtime.engine.repetition import RepetitionDetector
from edge_runtime.engine.request import GenerationRequest
from edge_runtime.engine.sampling import Sampler, token_logprob
from edge_runtime.engine.transcript import Transcript
from edge_runtime.model.cancellation import CancelToken
from edge_runtime.model.kv_cache import KVLease


class Phase(enum.Enum):
    """What a chat needs next."""

    WAITING = "room in the KV cache"
    ENCODE = "its next image or video frame pair decoded and encoded"
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


class Chat:
    """One request from when it is prepared to its last event."""

    __slots__ = (
        "_repetition",
        "_sampler",
        "_unsent_ids",
        "_unsent_logprobs",
        "cancel",
        "clock",
        "lease",
        "output_ids",
        "prompt",
        "prompt_ids",
        "request",
        "transcript",
    )

    def __init__(
        self,
        request: GenerationRequest,
        prompt: PreparedPrompt,
        transcript: Transcript,
        submitted_s: float,
        cancel: CancelToken,
    ) -> None:
        """`prompt` and `transcript` are this chat's alone; `submitted_s` is a `time.perf_counter` reading.

        `request.options.max_tokens` is a number by now: the engine has filled in what the context has room for.
        """
        self.request = request
        self.prompt = prompt
        self.prompt_ids: NDArray[np.int64] = prompt.input_ids  # [T]
        self.transcript = transcript
        self.clock = Clock(submitted_s)
        self.cancel = cancel
        self.lease: KVLease | None = None
        self.output_ids: list[int] = []
        self._repetition = RepetitionDetector() if request.options.stop_on_repetition else None
        self._sampler = Sampler(request.options, self.prompt_ids)
        self._unsent_ids: list[int] = []
        self._unsent_logprobs: list[TokenLogprob] = []

    @property
    def phase(self) -> Phase:
        """What this chat needs next."""
        if self.lease is None:
            return Phase.WAITING
        if self.prompt.pending_media:
            return Phase.ENCODE
        return Phase.PREFILL if self.num_cached < len(self.prompt_ids) else Phase.DECODE

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
        return len(self.prompt_ids) + self.max_tokens

    @property
    def max_tokens(self) -> int:
        """How long the answer may become."""
        assert self.request.options.max_tokens is not None
        return self.request.options.max_tokens

    def step(self, num_tokens: int) -> Step:
        """The run of the next `num_tokens` of the log that are not cached yet; logits only where the log ends."""
        assert self.lease is not None
        start, num_prompt = self.num_cached, len(self.prompt_ids)
        if start < num_prompt:
            token_ids = self.prompt_ids[start : start + num_tokens]
        else:
            token_ids = np.asarray(self.output_ids[start - num_prompt :], dtype=np.int64)
        assert len(token_ids) == num_tokens
        want_logits = start + num_tokens == num_prompt + len(self.output_ids)
        return Step(self.prompt, token_ids, self.lease, want_logits, self.cancel, self.request.options.top_k)

    def rewind(self, num_cached: int, num_tokens: int) -> int:
        """After a failed run of `num_tokens` on top of `num_cached`: get ready to repeat it; return the tokens to run.

        What reached the cache stays there, since its image features may be gone; the last token alone is run again
        where its logits are wanted.
        """
        assert self.lease is not None
        if self.lease.length != num_cached + num_tokens:
            self.lease.truncate(num_cached)
            return num_tokens
        if self.lease.length < len(self.prompt_ids):
            return 0
        self.lease.truncate(self.lease.length - 1)
        return 1

    def draw(self, logits: NDArray[np.float32]) -> int:
        """Choose the next token from `logits` [V] and add it to the log. Raises `InternalError` for NaN logits."""
        token_id = self._sampler.draw(logits)
        if not self.output_ids:
            self.clock.first_token_s = time.perf_counter()
        self.output_ids.append(token_id)
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
            token_ids=tuple(self.output_ids),
            finish_reason=reason,
            timings=self._timings(),
        )
        return [*(self._delta(channel, text) for channel, text in pieces), ended]

    def add_media(self, spent: MediaTimings) -> None:
        """Count the time of a part of a vision run."""
        self.clock.decode_image_ms += spent.decode_image_ms
        self.clock.resize_ms += spent.resize_ms
        self.clock.vision_ms += spent.vision_ms

    def _delta(self, channel: Channel, text: str) -> Delta:
        """A delta that carries all tokens since the last one."""
        logprobs = None if self.request.options.num_logprobs is None else tuple(self._unsent_logprobs)
        delta = Delta(self.request.request_id, text, channel, tuple(self._unsent_ids), logprobs)
        self._unsent_ids.clear()
        self._unsent_logprobs.clear()
        return delta

    def _timings(self) -> Timings:
        clock, now_s = self.clock, time.perf_counter()
        return Timings(
            queue_ms=1e3 * (clock.admitted_s - clock.submitted_s),
            decode_image_ms=clock.decode_image_ms,
            resize_ms=clock.resize_ms,
            vision_ms=clock.vision_ms,
            prefill_ms=clock.prefill_ms,
            decode_ms=1e3 * (now_s - clock.first_token_s),
            first_token_ms=1e3 * (clock.first_token_s - clock.submitted_s),
            total_ms=1e3 * (now_s - clock.submitted_s),
            prompt_tokens=len(self.prompt_ids),
            image_tokens=self.prompt.image_tokens,
            output_tokens=len(self.output_ids),
        )
