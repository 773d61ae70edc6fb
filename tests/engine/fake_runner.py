"""A `ModelRunner` without a model: its logits follow from the tokens that are really in the cache, or from a script.

A token below 256 is that byte; a chunk run twice, left out or out of order changes the log and so every later token.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from edge_runtime.engine.control import ThoughtTokens
from edge_runtime.engine.engine import Engine
from edge_runtime.engine.events import Delta, Event, Failed, Finished
from edge_runtime.engine.grammar import Grammars
from edge_runtime.engine.model_runner import MediaTimings, Step
from edge_runtime.engine.request import GenerationRequest, SamplingParams
from edge_runtime.engine.settings import EngineSettings
from edge_runtime.engine.token_log import Media, TokenLog
from edge_runtime.errors import BadPrompt
from edge_runtime.families.qwen3_vl.processor import Normalization, TokenGrid, VisionSpan
from edge_runtime.model.cancellation import CancelToken
from edge_runtime.model.conversation import ImagePart, Message, TextPart
from edge_runtime.model.decoder import Logits
from edge_runtime.model.kv_cache import RowSource
from edge_runtime.model.paged_kv_cache import PagedKVCache, PagedLease
from edge_runtime.model.tokenizer import _byte_of_char
from edge_runtime.vision.encoder import VisionFeatures
from edge_runtime.vision.plan import VisionRun

EOS, THINK, END_THINK, IMAGE, CALL, END_CALL = 256, 257, 258, 259, 260, 261
VOCAB = 262
THOUGHTS = ThoughtTokens(THINK, (10, END_THINK), (10, 10))
TOKENS_PER_IMAGE = 7
FEATURES = VisionFeatures(
    np.arange(TOKENS_PER_IMAGE, dtype=np.float32)[:, np.newaxis], np.zeros((0, TOKENS_PER_IMAGE, 1), np.float32)
)
"""Row r of `embeds` is r."""


_NAMES = ("<eos>", "<think>", "</think>", "<image>", "<tool_call>", "</tool_call>")


@cache
def fake_tokenizer() -> str:
    """The text of a `tokenizer.json` that says the same."""
    tokenizer = Tokenizer(models.BPE(_byte_of_char(), []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken(text, special=False) for text in _NAMES])
    return tokenizer.to_str()


class FakePixels:
    """Pixels on their way, there when `ready` is set."""

    def __init__(self, ready: bool = False) -> None:
        self.ready = ready

    def done(self) -> bool:
        return self.ready


class FakeEncoding:
    """An image that is encoded in parts for as long as `goes_on` is set."""

    def __init__(self) -> None:
        self.goes_on = True
        self.num_parts = 0


class FakeLease(PagedLease):
    """A lease whose keys and values are the tokens themselves."""

    def __init__(self, cache: FakeCache, capacity: int, lease: PagedLease) -> None:
        super().__init__(cache, lease.block_ids, lease.num_committed)
        self.cache = cache
        self.capacity = capacity
        self.num_reused = self._length = lease.num_reused

    @property
    def tokens(self) -> list[int]:
        return self.cache.memory[self.block_ids].reshape(-1)[: self.length].tolist()

    def append(self, token_ids: NDArray[np.int64]) -> None:
        for token in token_ids:
            block, place = divmod(self.length, self.cache.block_size)
            self.cache.memory[self.block_ids[block], place] = token
            self.extend(1)

    def free(self) -> None:
        self.cache.out.discard(self)
        super().free()


class FakeCache(PagedKVCache):
    """A real pool of blocks over a fake memory; finds nothing again unless `reuses`."""

    def __init__(self, max_tokens: int, block_size: int = 1, reuses: bool = False) -> None:
        super().__init__(max_tokens, block_size)
        self.memory = np.full((self.num_blocks, block_size), -1, dtype=np.int64)
        self.out: set[FakeLease] = set()
        self.num_leases = 0
        self.reuses = reuses
        self.copy_rows = self._copy_rows

    def _copy_rows(self, sources: NDArray[np.int64], targets: NDArray[np.int64]) -> None:
        rows = self.memory.reshape(-1)
        rows[targets] = rows[sources]

    def lease(self, num_tokens: int, keys: Sequence[bytes] = (), sources: Iterable[RowSource] = ()) -> FakeLease | None:
        lease = super().lease(num_tokens, keys if self.reuses else (), sources if self.reuses else ())
        if lease is None:
            return None
        self.num_leases += 1
        fake = FakeLease(self, num_tokens, lease)
        self.out.add(fake)
        return fake


class FakeLog(TokenLog):
    """A log that knows whose it is."""

    def __init__(
        self, request_id: str, text: str, input_ids: NDArray[np.int64], media: list[Media], salt: bytes
    ) -> None:
        super().__init__(
            input_ids,
            media,
            positions=(np.zeros((3, len(input_ids)), dtype=np.int64), 0),
            starts_in_reasoning=text.endswith("<think>"),
            salt=salt,
        )
        self.request_id = request_id
        self.text = text


@dataclass
class FakeRunner:
    """Hooks may raise, cancel, or look on; `script` gives the answer's tokens by the prompt's text."""

    max_context: int = 1000
    kv_cache: FakeCache = field(default_factory=lambda: FakeCache(1000))
    script: dict[str, list[int]] = field(default_factory=dict)
    on_forward: Callable[[Sequence[Step]], None] = lambda steps: None
    on_encode: Callable[[FakeLog, CancelToken], None] = lambda prompt, cancel: None
    on_prepare: Callable[[GenerationRequest], None] = lambda request: None
    eos_token_ids: frozenset[int] = frozenset({EOS})
    think_token_ids: tuple[int, int] | None = (THINK, END_THINK)
    tool_call_token_ids: tuple[int, int] | None = (CALL, END_CALL)
    placeholder_ids: frozenset[int] = frozenset({IMAGE})
    thought_tokens: ThoughtTokens | None = THOUGHTS
    grammars: Grammars = field(default_factory=lambda: Grammars(fake_tokenizer, [EOS]))
    forwards: list[list[tuple[str, int]]] = field(default_factory=list)
    """Per forward run: (request id, number of tokens) of each step."""
    encodes: list[str] = field(default_factory=list)
    media_started: list[str] = field(default_factory=list)
    released: list[str] = field(default_factory=list)
    kv_bytes_per_token: int = 8
    feature_bytes: int = 0
    max_feature_bytes: int = 0
    on_wait: Callable[[FakeLog], None] = lambda prompt: None

    @property
    def media(self) -> FakeRunner:
        return self

    def prepare(self, request: GenerationRequest, cancel: CancelToken) -> FakeLog:
        self.on_prepare(request)
        text, ids, media = "", [], []
        for message in request.messages:
            for part in message.content:
                if isinstance(part, TextPart):
                    text += part.text
                    ids += part.text.encode()
                else:
                    run = VisionRun((b"",), 32, 32, Normalization.of((0.5,), (0.5,)))
                    digest = bytes(part.data)
                    span = VisionSpan(len(ids), TokenGrid(1, TOKENS_PER_IMAGE))
                    media.append(Media(span, run, digest, digest, dropped=part.dropped))
                    ids += [IMAGE] * TOKENS_PER_IMAGE
        if "refuse" in text:
            raise BadPrompt("refused")
        log = FakeLog(request.request_id, text, np.array(ids, dtype=np.int64), media, request.options.salt)
        log.drop_marked()
        return log

    def start(self, log: FakeLog) -> None:
        if log.next_media is not None:
            self.media_started.append(log.request_id)

    def wait(self, log: FakeLog, timeout_s: float) -> None:
        self.on_wait(log)

    def release(self, log: FakeLog) -> None:
        self.released.append(log.request_id)

    def advance(self, log: FakeLog, cancel: CancelToken) -> MediaTimings:
        self.on_encode(log, cancel)
        cancel.raise_if_cancelled()
        media = log.next_media
        assert media is not None
        if media.encoding is None or not media.encoding.num_parts:
            self.encodes.append(log.request_id)
        if media.encoding is not None and media.encoding.goes_on:
            media.encoding.num_parts += 1
        else:
            media.run = media.pixels = media.encoding = None
            media.features = FEATURES
        return MediaTimings(decode_image_ms=1.0, resize_ms=2.0, vision_ms=3.0)

    def forward(self, steps: Sequence[Step]) -> list[Logits | None]:
        self.forwards.append([(step.log.request_id, len(step.token_ids)) for step in steps])
        self.on_forward(steps)
        rows = [self.run(step) for step in steps]
        return [None if one is None else Logits(one) for one in rows]

    def run(self, step: Step) -> NDArray[np.float32] | None:
        if step.cancel.cancelled:
            return None
        log, lease = step.log, step.lease
        assert isinstance(lease, FakeLease)
        assert isinstance(log, FakeLog)
        assert lease in lease.cache.out, "a freed lease was used"
        assert len(step.token_ids) >= 1
        start, stop = lease.length, lease.length + len(step.token_ids)
        for media in log.media:
            if media.span.start < stop and start < media.span.stop:
                assert media.run is None, "an image was not encoded before its tokens"
                assert media.features is not None, "image features are gone"
                low, high = max(start, media.span.start), min(stop, media.span.stop)
                first = media.span.start + media.num_dropped
                rows = media.features.embeds[max(0, low - first) : high - first, 0] + media.span.start
                assert rows.tolist() == list(range(low, high)), "these are other tokens' features"
        lease.append(step.token_ids)
        assert lease.length <= lease.capacity
        tokens = lease.tokens
        assert tokens[: log.num_prompt] == log.input_ids[: lease.length].tolist()
        ends = range(len(tokens) - step.num_logits + 1, len(tokens) + 1)
        return np.stack([self.logits(log, tokens[:end]) for end in ends]) if step.num_logits else None

    def logits(self, log: FakeLog, tokens: list[int]) -> NDArray[np.float32]:
        if log.text in self.script:
            logits = np.zeros(VOCAB, dtype=np.float32)
            place, script = len(tokens) - log.num_prompt, self.script[log.text]
            logits[script[place] if place < len(script) else EOS] = 10.0  # what is drafted may go further
            return logits
        seed = zlib.crc32(np.array(tokens, dtype=np.int32).tobytes())
        return np.random.default_rng(seed).normal(size=VOCAB).astype(np.float32) * 3

    def remember(self, log: FakeLog) -> None:
        pass

    def detokenize(self, token_ids: Sequence[int]) -> bytes:
        return bytes(token for token in token_ids if token < 256)


def engine_of(runner: FakeRunner, **settings: int) -> Engine:
    """An engine that prefills in chunks of four tokens unless told otherwise, and whose steps take no time."""
    return Engine(runner, EngineSettings(**{"prefill_chunk": 4, **settings}), clock=lambda: 0.0)


def request(request_id: str, text: str = "hello", images: int = 0, **fields: object) -> GenerationRequest:
    """A request with `images` images before `text`; sampling fields are recognised by name."""
    names = SamplingParams.__struct_fields__
    sampling = SamplingParams(**{k: v for k, v in fields.items() if k in names})  # type: ignore[arg-type]
    rest = {k: v for k, v in fields.items() if k not in names}
    parts = (*(ImagePart(b"") for _ in range(images)), TextPart(text))
    messages = (Message("user", parts),)
    return GenerationRequest(request_id, messages, sampling, **{"max_tokens": 8, **rest})  # type: ignore[arg-type]


def run_all(engine: Engine) -> dict[str, list[Event]]:
    """Step until nothing is left; the events by request, each checked to end exactly once, at its end."""
    events: list[Event] = []
    while engine.has_work:
        events += engine.step()
    return by_request(events)


def by_request(events: Sequence[Event]) -> dict[str, list[Event]]:
    """Events by request id, after checking what holds for every request that has ended."""
    by_id: dict[str, list[Event]] = {}
    for event in events:
        by_id.setdefault(event.request_id, []).append(event)
    for own in by_id.values():
        *deltas, last = own
        assert isinstance(last, (Finished, Failed))
        assert all(isinstance(delta, Delta) for delta in deltas)
        if isinstance(last, Finished):
            assert "".join(d.text for d in deltas if d.channel == "answer") == last.text
            assert "".join(d.text for d in deltas if d.channel == "reasoning") == last.reasoning
            assert tuple(token for d in deltas for token in d.token_ids) == last.token_ids
            assert last.timings.output_tokens == len(last.token_ids)
    return by_id


def last_of(events: dict[str, list[Event]], request_id: str) -> Finished:
    """The `Finished` of a request that is expected to have one."""
    last = events[request_id][-1]
    assert isinstance(last, Finished), last
    return last
