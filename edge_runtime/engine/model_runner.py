"""All the engine asks of a model. `ModelRunner` is the seam: tests drive the engine with a fake one.

`BundleRunner` (engine/bundle_runner.py) is the real one: prompt, images, vision encoder and decoder of a bundle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_runtime.engine.request import GenerationRequest
from edge_runtime.model.cancellation import CancelToken
from edge_runtime.model.kv_cache import KVCache, KVLease


@dataclass(frozen=True, slots=True)
class MediaTimings:
    """Milliseconds spent on one image or one video frame pair, or on a part of that."""

    decode_image_ms: float
    resize_ms: float
    vision_ms: float


class PreparedPrompt(Protocol):
    """A prompt whose length is known, its pixels not decoded yet. Owned by one chat; `encode_next` fills it."""

    @property
    def input_ids(self) -> NDArray[np.int64]:
        """Token ids [T] with image placeholders expanded."""

    @property
    def image_tokens(self) -> int:
        """How many of the ids are image or video placeholders."""

    @property
    def pending_media(self) -> int:
        """Images and video frame pairs that are not encoded yet."""

    @property
    def media_ready(self) -> bool:
        """Whether `encode_next` would not have to wait for the pixels of the next one."""

    @property
    def media_begun(self) -> bool:
        """Whether the next one is encoded in part."""


@dataclass(frozen=True, slots=True)
class Step:
    """One chat's part of a run: the next tokens of its log go in, logits of the last come out if wanted."""

    prompt: Any
    """The chat's `PreparedPrompt`, for the rows of a prefill chunk and the positions of what follows it."""
    token_ids: NDArray[np.int64]
    """[T] tokens to run; they follow the `lease.length` tokens already in the cache."""
    lease: KVLease
    want_logits: bool
    cancel: CancelToken
    num_candidates: int = 0
    """How many of the likeliest tokens will be drawn from: their logits shall be as exact as the bundle can give."""


class ModelRunner(Protocol):
    """A loaded model: prepares prompts, encodes images, runs the decoder.

    Used by one thread at a time, but for `prepare`, which another thread may call meanwhile.
    """

    @property
    def kv_cache(self) -> KVCache:
        """The cache that leases come from."""

    @property
    def max_context(self) -> int:
        """Longest prompt plus answer, in tokens."""

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """Tokens that end an answer."""

    @property
    def think_token_ids(self) -> tuple[int, int] | None:
        """Ids of `<think>` and `</think>`, or None where the model has none."""

    def prepare(self, request: GenerationRequest, cancel: CancelToken) -> PreparedPrompt:
        """Template, token ids, placeholders; reads image headers only. Raises `RequestError` or `Cancelled`."""

    def starts_in_reasoning(self, prompt: Any) -> bool:
        """Whether the prompt ends inside an open `<think>`, as Thinking templates do."""

    def start_media(self, prompt: Any) -> None:
        """Begin to decode the first image of `prompt`, beside all other work. Raises what a shortage brings."""

    def wait_for_media(self, prompt: Any, timeout_s: float) -> None:
        """Wait until `prompt.media_ready`, or until the time has passed."""

    def encode_next(self, prompt: Any, cancel: CancelToken) -> MediaTimings:
        """Do the next part of encoding the next image of `prompt`: no more than what a prefill chunk takes.

        Waits for the image's pixels if they are not ready. Raises `BadImage` or `Cancelled`.
        """

    def release(self, prompt: Any) -> None:
        """Its chat has ended: stop decoding its images and let go of what encoding them has kept."""

    def forward(self, steps: Sequence[Step]) -> list[NDArray[np.float32] | None]:
        """Run the decoder on every step; per step the last token's logits [V], or None where not wanted.

        A step whose token was cancelled during the run gives None and leaves its lease unusable past its old length.
        If this raises, the engine calls it again for each step alone, from what its lease then holds, so that only the
        chat at fault fails; image features whose tokens are in the cache are not asked for again.
        """

    def detokenize(self, token_ids: Sequence[int]) -> bytes:
        """The exact bytes the tokens stand for (special tokens give none)."""
