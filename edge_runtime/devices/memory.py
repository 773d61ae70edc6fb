"""Memory in plain numbers: what a model needs per unit, and what a plan costs. Knows no search and no files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from edge_runtime.devices.profile import KVDtype

DECODING_PROCESS_BYTES = 16 * 2**20
"""The decoding process at rest. Measured: 16.6 MiB resident with Pillow 13, half of it shared with nobody."""
LEAST_DECODING_BYTES = 32 * 2**20
"""Decodes a screen of 1920x1080 in any format; the last thing to give way."""
GOOD_DECODING_BYTES = 80 * 2**20
"""Decodes a 4K screen with alpha (3840x2160: 32 MiB as it comes, as much in RGB, its file), or a 12-megapixel JPEG."""
MOST_DECODING_BYTES = 1344 * 2**20
"""Decodes whatever is accepted: a WEBP of 8192x8192 with alpha takes 20 bytes a pixel."""

MIN_IMAGE_TOKENS = 1024
"""Image size gives way down to here: below it Qwen-VL models point at the wrong places (llama.cpp#16842)."""
LEAST_SESSION_BYTES = 8 * 2**20
"""Sessions of text, and some screenshots as files."""
MOST_SESSION_BYTES = 256 * 2**20
"""Hundreds of screenshots as files, or a hundred raw ones of 1280x720."""

IMAGES_KEPT = 4
"""Images per chat whose features are kept at most."""


@dataclass(frozen=True, slots=True)
class ModelFootprint:
    """What a model needs, in bytes per unit of everything the planner may choose."""

    weights_bytes: int
    """All weight files, mapped."""
    prepacked_bytes: int
    """Copies of weights that the execution provider makes when it loads them."""
    fixed_bytes: int
    """Whatever the choice: interpreter, libraries, tokenizer, graph structures, one row of logits."""
    kv_bytes_per_token: Mapping[KVDtype, int]
    """Keys and values of one token over all layers, for every dtype the graph can store them in."""
    max_context: int
    """Longest context the model was made for."""
    patch_size: int
    merge_size: int
    min_pixels: int
    max_pixels: int
    """Image limits of the bundle."""
    vision_bytes_per_patch: int
    """Transient memory of the vision graph for one patch, its pixels and its share of the output included."""
    feature_bytes_per_token: int
    """What the vision encoder gives for one image token: its embedding and DeepStack rows."""
    prefill_bytes_per_token: int
    """Transient memory of the decoder graph for one token of a chunk."""
    prefill_bytes_per_token_and_context: int = 0
    """The part of it that also grows with the context (attention scores), per token of a chunk and of the context."""
    int4_weights_bytes: int | None = None
    """`weights_bytes` + `prepacked_bytes` of the same model with int4 weights; None where it has them already."""

    def image_tokens(self, max_pixels: int) -> int:
        """Tokens of the largest image within `max_pixels`."""
        return max_pixels // (self.patch_size * self.merge_size) ** 2

    def pixels_of(self, image_tokens: int) -> int:
        """Pixels of an image of that many tokens."""
        return image_tokens * (self.patch_size * self.merge_size) ** 2

    def with_int4_weights(self) -> ModelFootprint:
        """The footprint of the same model exported with int4 weights; itself where it has them already."""
        if self.int4_weights_bytes is None:
            return self
        return replace(self, weights_bytes=self.int4_weights_bytes, prepacked_bytes=0, int4_weights_bytes=None)


@dataclass(frozen=True, slots=True)
class MemoryRequest:
    """What the caller insists on; None leaves the choice to the planner."""

    context_tokens: int | None = None
    max_pixels: int | None = None
    max_chats: int | None = None
    kv_dtype: KVDtype | None = None
    budget_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """The choice, and what it costs."""

    context_tokens: int
    max_pixels: int
    max_chats: int
    kv_dtype: KVDtype
    prefill_chunk_tokens: int
    budget_bytes: int
    weights_bytes: int
    fixed_bytes: int
    kv_bytes: int
    features_bytes: int
    vision_bytes: int
    prefill_bytes: int
    decoding_bytes: int
    """For one picture while it is decoded: `ImageLimits.max_decode_bytes`, which limits the process that does it."""
    feature_cache_bytes: int = 0
    """For features of images seen lately, in case they are asked about again."""
    session_bytes: int = LEAST_SESSION_BYTES
    """For the text and the pictures of sessions: `SessionLimits.max_bytes`."""

    @property
    def kv_tokens(self) -> int:
        """Tokens the KV cache must hold: every chat at its longest."""
        return self.context_tokens * self.max_chats

    @property
    def total_bytes(self) -> int:
        """Peak memory. One chat's image is encoded before its prompt runs; of several, parts of both alternate."""
        held = self.weights_bytes + self.fixed_bytes + self.kv_bytes + self.features_bytes + self.feature_cache_bytes
        held += self.session_bytes
        pictures = self.decoding_bytes + DECODING_PROCESS_BYTES
        runs = (self.vision_bytes, self.prefill_bytes)
        return held + pictures + (max(runs) if self.max_chats == 1 else sum(runs))

    def with_room_for_pictures(self) -> MemoryPlan:
        """The same with half of what is left of the budget for decoding, so that large pictures are accepted.

        Half of the rest is for features of images seen lately, a few of every chat's; half of what is left then for
        sessions.
        """
        room = self.decoding_bytes + (self.budget_bytes - self.total_bytes) // 2
        plan = replace(self, decoding_bytes=max(self.decoding_bytes, min(room, MOST_DECODING_BYTES)))
        kept = min((plan.budget_bytes - plan.total_bytes) // 2, IMAGES_KEPT * plan.features_bytes)
        plan = replace(plan, feature_cache_bytes=max(kept, 0))
        room = plan.session_bytes + (plan.budget_bytes - plan.total_bytes) // 2
        return replace(plan, session_bytes=max(plan.session_bytes, min(room, MOST_SESSION_BYTES)))

    @property
    def loaded_bytes(self) -> int:
        """What is in use once the model is loaded; the rest is held for chats that grow, and for images."""
        return self.weights_bytes + self.fixed_bytes

    def rows(self) -> tuple[tuple[str, str, str], ...]:
        """(what, how much, for what) of every part, of the total and of the budget, for a table."""
        chats = f"{self.max_chats} chat{'s' if self.max_chats > 1 else ''} x {self.context_tokens:,} tokens"
        return (
            ("weights", format_bytes(self.weights_bytes), "mapped from the bundle, and repacked copies"),
            ("KV cache", format_bytes(self.kv_bytes), f"held for {chats}, {self.kv_dtype}"),
            ("features", format_bytes(self.features_bytes), "held for encoded images on their way into the cache"),
            ("seen", format_bytes(self.feature_cache_bytes), "for images encoded lately, in case they come again"),
            ("sessions", format_bytes(self.session_bytes), "held for text and pictures of sessions"),
            ("vision", format_bytes(self.vision_bytes), f"held for an image of up to {self.max_pixels:,} pixels"),
            ("prefill", format_bytes(self.prefill_bytes), f"held for chunks of {self.prefill_chunk_tokens} tokens"),
            (
                "pictures",
                format_bytes(self.decoding_bytes + DECODING_PROCESS_BYTES),
                "held for decoding one, in a process of its own",
            ),
            ("runtime", format_bytes(self.fixed_bytes), "interpreter, libraries, tokenizer"),
            (
                "total",
                format_bytes(self.total_bytes),
                f"at most; about {format_bytes(self.loaded_bytes)} once loaded",
            ),
            ("budget", format_bytes(self.budget_bytes), f"{format_bytes(self.budget_bytes - self.total_bytes)} left"),
        )


@dataclass(frozen=True, slots=True)
class Change:
    """A way out where nothing fits: the question as it could be asked instead, and in words what is different."""

    text: str
    footprint: ModelFootprint
    request: MemoryRequest


def format_bytes(num_bytes: float) -> str:
    """A size for people: MiB below one GiB, else GiB."""
    mib = num_bytes / 2**20
    return f"{mib:.0f} MiB" if abs(mib) < 1024 else f"{mib / 1024:.2f} GiB"
