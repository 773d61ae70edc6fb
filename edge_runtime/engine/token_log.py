"""The log of one chat: every token, of prompt and answer, where it stands, and the images behind the placeholders.

It is all there is to know of a chat's past: what is in the KV cache follows from it. Knows no queue, no graph, no text.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from itertools import takewhile

import numpy as np
from numpy.typing import NDArray

from edge_runtime.engine.dropping import Gap, kept_tokens
from edge_runtime.engine.events import ImageShape
from edge_runtime.families.qwen3_vl.processor import VisionSpan
from edge_runtime.model.kv_cache import RowSource
from edge_runtime.model.thoughts import DroppedThought
from edge_runtime.vision.encoder import Encoding, VisionFeatures
from edge_runtime.vision.pending import PendingPixels
from edge_runtime.vision.plan import VisionRun

_KEY_BYTES = 16
_MAX_SOURCES = 4
"""So many drops back is looked for what was computed."""


@dataclass(slots=True, eq=False)
class Media:
    """One run of the vision encoder, an image or a pair of video frames, on its way into the cache.

    It is planned, decoded, encoded, and let go: of each stage it holds what the next one needs, and no more.
    """

    span: VisionSpan
    """Its tokens."""
    run: VisionRun | None
    """What to decode; None once that has been encoded."""
    source: bytes = b""
    """Digest of the frames as they came, and of the size they will have."""
    digest: bytes | None = None
    """Of the pixels as the encoder gets them, and of how they are normalized: equal ones have equal features.

    None until they are decoded, unless they were before.
    """
    is_started: bool = False
    """Whether the engine has asked for it, and will not wait for its pixels when it comes to encoding."""
    pixels: PendingPixels | None = None
    """Its frames on their way through the decoding process."""
    encoding: Encoding | None = None
    """Its patches on their way through the vision graph."""
    features: VisionFeatures | None = None
    """What came of it, for its tokens from number `num_dropped` on; None again once all of them are in the cache."""
    num_dropped: int = 0
    image_size: tuple[int, int] | None = None
    """Of an image: its height and width as decoded, upright."""
    dropped: int = 0
    """That of its part."""

    @property
    def ready(self) -> bool:
        """Whether it can be encoded, or further encoded, without waiting for pixels."""
        return self.encoding is not None or self.pixels is None or self.pixels.done()

    def gap(self, input_ids: NDArray[np.int64]) -> Gap:
        """What it leaves in the log of `input_ids` when it is dropped."""
        shows = repr((self.span.grid.rows, self.span.grid.columns)).encode() + self.source
        return Gap.of(input_ids, self.span.start, self.span.stop, self.dropped, shows)


class TokenLog:
    """The tokens of a chat, oldest first. Grows by `append`; owned by one chat."""

    __slots__ = (
        "_gaps",
        "_ids",
        "_keys",
        "_length",
        "_position_ids",
        "_whole",
        "media",
        "num_prompt",
        "rope_delta",
        "salt",
        "short_ids",
        "starts_in_reasoning",
    )

    def __init__(
        self,
        input_ids: NDArray[np.int64],
        media: Sequence[Media] = (),
        *,
        positions: tuple[NDArray[np.int64], int],
        starts_in_reasoning: bool,
        short_ids: NDArray[np.int64] | None = None,
        salt: bytes = b"",
    ) -> None:
        """A log that holds a prompt: `input_ids` [T], placeholders expanded.

        `positions`: position ids [3, T], and R: the token at index i after the prompt has position i + R on every axis.
        """
        self._ids = input_ids
        self._length = self.num_prompt = len(input_ids)
        self._position_ids, self.rope_delta = positions
        self.short_ids = input_ids if short_ids is None else short_ids
        """The prompt with one token per image or pair of video frames."""
        self.salt = salt
        """Logs share what they have in common only if theirs is equal: 16 bytes, or none."""
        self._keys: list[bytes] = []
        self._whole: TokenLog | None = None  # before anything was dropped
        self._gaps: tuple[tuple[int, Gap], ...] = ()  # each before the token of that index
        self.media = tuple(media)
        """In the order of their tokens."""
        self.starts_in_reasoning = starts_in_reasoning
        """Whether the prompt ends inside an open `<think>`, as those of Thinking templates do."""

    def __len__(self) -> int:
        """How many tokens there are."""
        return self._length

    @property
    def input_ids(self) -> NDArray[np.int64]:
        """[T] the tokens of the prompt."""
        return self._ids[: self.num_prompt]

    @property
    def output_ids(self) -> tuple[int, ...]:
        """The tokens of the answer."""
        return tuple(self._ids[self.num_prompt : self._length].tolist())

    @property
    def num_output(self) -> int:
        """How many those are."""
        return self._length - self.num_prompt

    @property
    def image_tokens(self) -> int:
        """How many tokens of the prompt are image or video placeholders."""
        return sum(media.span.grid.num_tokens for media in self.media)

    @property
    def images(self) -> tuple[ImageShape, ...]:
        """The images of the prompt, in order."""
        sizes = [(media.image_size, media.span.grid.num_tokens) for media in self.media]
        return tuple(ImageShape(size[1], size[0], num_tokens) for size, num_tokens in sizes if size is not None)

    @property
    def next_media(self) -> Media | None:
        """The first that is not encoded yet."""
        return next((media for media in self.media if media.run is not None), None)

    def drop_marked(self, thoughts: Sequence[DroppedThought] = ()) -> None:
        """Take out the tokens of images that are marked as dropped, and of thoughts; see `drop`."""
        gaps = [media.gap(self._ids) for media in self.media if media.dropped]
        gaps += [Gap.of(self._ids, one.start, one.stop, one.number) for one in thoughts]
        if gaps:
            self.drop(sorted(gaps, key=lambda gap: gap.start))

    def drop(self, gaps: Sequence[Gap]) -> None:
        """Take the tokens of `gaps`, in order, out of a prompt; all others, and all to come, keep their positions."""
        self._whole = copy(self)
        self._whole.media = tuple(replace(media, run=None) for media in self.media)  # what they show is not needed
        kept = kept_tokens(self.num_prompt, gaps)
        num_before: NDArray[np.int64] = np.cumsum(kept) - kept  # of those that stay
        self._gaps, self._keys = tuple((int(num_before[gap.start]), gap) for gap in gaps), []
        self.rope_delta += int(np.sum(~kept))
        self.media = tuple(
            replace(media, span=replace(media.span, start=int(num_before[media.span.start])))
            for media in self.media
            if kept[media.span.start]
        )
        self._ids, self._position_ids = self._ids[kept], self._position_ids[:, kept]
        self._length = self.num_prompt = len(self._ids)

    def sources(self, block_size: int) -> Iterator[RowSource]:
        """Where keys and values of all tokens but the last may be copied from: logs that begin as this one does.

        And of a log with gaps those before its latest drop, before that one, ...
        """
        yield self._source(block_size, np.arange(self.num_prompt - 1))
        if self._whole is None:
            return
        num_whole, dropped = self._whole.num_prompt, [gap for _, gap in self._gaps]
        kept = kept_tokens(num_whole, dropped)
        for number in sorted({gap.number for gap in dropped}, reverse=True)[:_MAX_SOURCES]:
            earlier, gaps = copy(self._whole), [gap for gap in dropped if gap.number < number]
            if gaps:
                earlier.drop(gaps)
            places = np.cumsum(kept_tokens(num_whole, gaps)) - 1
            yield earlier._source(block_size, places[kept][:-1])

    def _source(self, block_size: int, rows: NDArray[np.int64]) -> RowSource:
        keys = self.keys(block_size, (self.num_prompt - 1) // block_size)
        return RowSource(keys, rows, partial(self.parts, block_size))

    def append(self, token_id: int) -> None:
        """Add a token of the answer."""
        if self._length == len(self._ids):
            self._ids = np.concatenate((self._ids, np.empty(max(64, self.num_output), np.int64)))
        self._ids[self._length] = token_id
        self._length += 1

    def ids(self, start: int, stop: int) -> NDArray[np.int64]:
        """Tokens [stop - start] from index `start` on."""
        return self._ids[start : min(stop, self._length)]

    def position_ids(self, start: int, stop: int) -> NDArray[np.int64]:
        """Position ids [3, stop - start] of the tokens from index `start` on, also of those that are still to come."""
        in_prompt = self._position_ids[:, start:stop]
        after = np.arange(max(start, self.num_prompt), stop) + self.rope_delta
        return np.concatenate((in_prompt, np.broadcast_to(after, (3, len(after)))), axis=1)

    def keys(self, block_size: int, num_blocks: int) -> Sequence[bytes]:
        """Keys of the first blocks of tokens: each says all that its tokens, and those before it, depend on.

        That is their ids, of an image its pixels as the encoder gets them, and its grid, and of a gap all that was
        there; positions follow from these. The salt is in all of them. At most `num_blocks`; fewer where an image has
        not been seen yet. Always asked with one `block_size`.
        """
        while len(self._keys) < num_blocks:
            start = len(self._keys) * block_size
            key = self._key(self._keys[-1] if self._keys else b"", start, start + block_size)
            if key is None:
                break
            self._keys.append(key)
        return self._keys[:num_blocks]

    def parts(self, block_size: int, index: int) -> list[bytes]:
        """Keys of the first 1, 2, ... tokens of the block `index`, up to the last but one or the end of the log."""
        before = self.keys(block_size, index)
        start = index * block_size
        parent = before[-1] if before else b""
        keys: list[bytes] = []
        while len(before) == index and len(keys) + 1 < block_size and start + len(keys) < len(self):
            key = self._key(parent, start, start + len(keys) + 1)
            if key is None:
                break
            keys.append(key)
        return keys

    def _key(self, parent: bytes, start: int, stop: int) -> bytes | None:
        """What tokens `start` to `stop` depend on, behind what `parent` is of; None where an image was not seen yet."""
        first = bisect_right(self.media, start, key=lambda one: one.span.stop)
        inside = list(takewhile(lambda one: one.span.start < stop, self.media[first:]))
        if any(one.digest is None for one in inside):
            return None
        key = hashlib.blake2b(parent, digest_size=_KEY_BYTES, salt=self.salt)
        key.update(self.ids(start, stop).tobytes())
        for one in inside:
            place = (one.span.start - start, one.span.grid.rows, one.span.grid.columns)
            key.update(repr(place).encode() + (one.digest or b""))
        for index, gap in self._gaps:
            if start <= index < stop:
                key.update(f"gap {index - start}:".encode() + gap.digest)
        return key.digest()

    def skip_features(self, num_cached: int) -> int:
        """The images whose tokens are all among the first `num_cached` need not be encoded; how many there are."""
        skipped = [media for media in self.media if media.span.stop <= num_cached]
        for media in skipped:
            media.run = None
        return len(skipped)

    def lacks_features(self, stop: int) -> bool:
        """Whether an image has to be encoded before the tokens up to index `stop` can be run."""
        media = self.next_media
        return media is not None and media.span.start < stop

    def drop_features(self, num_cached: int, chunk: int) -> None:
        """Let go of the features of the first `num_cached` tokens; the next run will be of `chunk` tokens.

        What is left of an image that ends within that run is copied, so that the rest of it can go: no more than
        `chunk` rows and those of one image are ever held.
        """
        for media in self.media:
            if media.features is None:
                continue
            num_left = media.span.stop - num_cached
            if num_left <= 0:
                media.features = None
            elif num_left <= min(chunk, len(media.features.embeds) - 1):
                media.features = media.features.last(num_left)
                media.num_dropped = media.span.grid.num_tokens - num_left
