"""What an engine holds and has found again: counted where it happens. Knows no queue, no graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from edge_runtime.engine.chat import Chat
    from edge_runtime.engine.model_runner import ModelRunner


class CacheInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Keys, values and features of images at one moment, and what was found among them since the engine began."""

    kv_tokens: int = 0
    """Tokens that the KV cache has room for, over all chats."""
    kv_held_tokens: int = 0
    """Room of the chats that run, in tokens: they hold it from admission to their end."""
    kv_kept_tokens: int = 0
    """Tokens that nobody holds and that would be found again; they give way where room is needed."""
    kv_block_tokens: int = 0
    """Tokens that are found again, or not, together."""
    kv_bytes_per_token: int = 0
    feature_bytes: int = 0
    """Features of images that are kept."""
    max_feature_bytes: int = 0
    prompt_tokens: int = 0
    """Of all chats admitted."""
    cached_tokens: int = 0
    """Those of them that were found."""
    images: int = 0
    """Images and pairs of video frames of all chats admitted."""
    vision_cached: int = 0
    """Those of them that were not encoded again, so far."""
    drafted_tokens: int = 0
    """Tokens that were guessed in answers that have ended, and run before it was known whether they come."""
    accepted_tokens: int = 0
    """Those of them that came."""
    running: int = 0
    """Chats that hold room in the KV cache."""
    waiting: int = 0
    """Chats that wait for it."""


@dataclass(slots=True)
class Found:
    """Counts since the engine began. Owned by the engine's thread."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    images: int = 0
    vision_cached: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0

    def admitted(self, chat: Chat) -> None:
        """Count what `chat` asks for, and what its lease had of it."""
        self.prompt_tokens += chat.log.num_prompt
        self.cached_tokens += chat.num_cached
        self.images += len(chat.log.media)
        self.vision_cached += chat.num_vision_reused

    def ended(self, chat: Chat) -> None:
        """Count what was guessed in its answer."""
        self.drafted_tokens += chat.num_drafted
        self.accepted_tokens += chat.num_accepted

    def info(self, runner: ModelRunner, running: int, waiting: int) -> CacheInfo:
        """All of it at this moment."""
        cache, media = runner.kv_cache, runner.media
        return CacheInfo(
            kv_tokens=cache.max_tokens,
            kv_held_tokens=cache.max_tokens - cache.free_tokens,
            kv_kept_tokens=cache.kept_tokens,
            kv_block_tokens=cache.block_size,
            kv_bytes_per_token=runner.kv_bytes_per_token,
            feature_bytes=media.feature_bytes,
            max_feature_bytes=media.max_feature_bytes,
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached_tokens,
            images=self.images,
            vision_cached=self.vision_cached,
            drafted_tokens=self.drafted_tokens,
            accepted_tokens=self.accepted_tokens,
            running=running,
            waiting=waiting,
        )
