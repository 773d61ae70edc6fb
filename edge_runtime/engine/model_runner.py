"""All the engine asks of a model. `ModelRunner` is the seam: tests drive the engine with a fake one.

`BundleRunner` (engine/bundle_runner.py) is the real one: prompt, images, vision encoder and decoder of a bundle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge_runtime.engine.control import ThoughtTokens
from edge_runtime.engine.grammar import Grammars
from edge_runtime.engine.request import GenerationRequest
from edge_runtime.engine.token_log import Media, TokenLog
from edge_runtime.model.answers import DrawnAnswers
from edge_runtime.model.cancellation import CancelToken
from edge_runtime.model.decoder import KVBlocks, Logits
from edge_runtime.model.fingerprint import Fingerprint
from edge_runtime.model.kv_cache import KVCache, KVLease


@dataclass(frozen=True, slots=True)
class MediaTimings:
    """Milliseconds spent on one image or one video frame pair, or on a part of that."""

    decode_image_ms: float
    resize_ms: float
    vision_ms: float
    is_reused: bool = False
    """Whether it was not encoded, but found."""


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One chat's part of a run: the next tokens of its log go in, logits after the last of them come out."""

    log: TokenLog
    token_ids: NDArray[np.int64]
    """[T] tokens to run; they follow the `lease.length` tokens already in the cache."""
    lease: KVLease
    num_logits: int
    """After how many of the T tokens, counted from the end, logits are wanted."""
    cancel: CancelToken


class MediaStage(Protocol):
    """The images of a log on their way to features; `log.next_media` is the one that each method is about."""

    @property
    def feature_bytes(self) -> int:
        """Features that are kept for images asked about again."""

    @property
    def max_feature_bytes(self) -> int:
        """Room for them."""

    def recognize(self, media: Media, digest: bytes) -> None:
        """Its pixels, which nobody has seen yet, have this digest. For any thread."""

    def start(self, log: TokenLog) -> None:
        """Begin to decode it, beside all other work; nothing if there is none. Raises what a shortage brings."""

    def wait(self, log: TokenLog, timeout_s: float) -> None:
        """Wait until it is `ready`, or until the time has passed."""

    def advance(self, log: TokenLog, cancel: CancelToken) -> MediaTimings:
        """Do the next part of encoding it: no more than what a prefill chunk takes.

        Waits for its pixels if they are not ready. Raises `BadImage` or `Cancelled`.
        """

    def release(self, log: TokenLog) -> None:
        """The chat has ended: stop decoding its images and let go of what encoding them has kept."""


class ModelRunner(Protocol):
    """A loaded model: prepares prompts, encodes images, runs the decoder.

    Used by one thread at a time, but for `prepare`, which another thread may call meanwhile.
    """

    @property
    def media(self) -> MediaStage:
        """Turns images into features."""

    @property
    def kv_cache(self) -> KVCache:
        """The cache that leases come from."""

    @property
    def kv_bytes_per_token(self) -> int:
        """What a token takes there, over all layers."""

    @property
    def kv_blocks(self) -> KVBlocks:
        """Keys and values of leases, as they are stored."""

    @property
    def answers(self) -> DrawnAnswers:
        """Answers as they were drawn."""

    @property
    def fingerprint(self) -> Fingerprint:
        """What all this depends on."""

    @property
    def max_context(self) -> int:
        """Longest prompt plus answer, in tokens."""

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """Tokens that end an answer."""

    @property
    def placeholder_ids(self) -> frozenset[int]:
        """Tokens that stand for images and videos."""

    @property
    def think_token_ids(self) -> tuple[int, int] | None:
        """Ids of `<think>` and `</think>`, or None where the model has none."""

    @property
    def tool_call_token_ids(self) -> tuple[int, int] | None:
        """Ids of `<tool_call>` and `</tool_call>`, or None where the model has none."""

    @property
    def thought_tokens(self) -> ThoughtTokens | None:
        """How thoughts are ended, or None where the model has none."""

    @property
    def grammars(self) -> Grammars:
        """Makes grammars of answers. For any thread."""

    def prepare(self, request: GenerationRequest, cancel: CancelToken) -> TokenLog:
        """The prompt, by template, tokenizer and headers of images. Raises `RequestError` or `Cancelled`."""

    def forward(self, steps: Sequence[Step]) -> list[Logits | None]:
        """Run the decoder on every step; per step its last rows of logits, or None where none are wanted.

        A step whose token was cancelled during the run gives None and leaves its lease unusable past its old length.
        If this raises, the engine restores the leases and calls it again for each step alone, so that only the chat at
        fault fails.
        """

    def score(self, token_ids: NDArray[np.int64], hidden: NDArray[np.float32]) -> NDArray[np.float32]:
        """Finer logits [n] of `token_ids` [n] after the final hidden state [D], for `Logits` that come with it."""

    def remember(self, log: TokenLog) -> None:
        """The answer of `log` is complete: prepare prompts that contain it with the same tokens."""

    def detokenize(self, token_ids: Sequence[int]) -> bytes:
        """The exact bytes the tokens stand for (special tokens give none)."""
