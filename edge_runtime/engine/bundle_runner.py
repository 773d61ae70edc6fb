"""The real `ModelRunner`: a bundle's prompt builder, vision encoder and decoder, joined. Knows no queue, no sampling.

A prompt is prepared from headers alone, its images become features in `media.py`; a forward run takes rows of text and
of image features for its tokens.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from edge_kernels.library import KernelLibrary
from edge_runtime.devices.profile import KVDtype
from edge_runtime.engine.control import ThoughtTokens
from edge_runtime.engine.grammar import Grammars
from edge_runtime.engine.media import MediaEncoder
from edge_runtime.engine.model_runner import Step
from edge_runtime.engine.request import GenerationOptions, GenerationRequest
from edge_runtime.engine.token_log import TokenLog
from edge_runtime.errors import ContextOverflow, InternalError
from edge_runtime.families.qwen3_vl.decoder import RotaryTables, prompt_positions
from edge_runtime.families.qwen3_vl.vision import vision_contract
from edge_runtime.model.answers import DrawnAnswers
from edge_runtime.model.bundle import Bundle
from edge_runtime.model.cancellation import CancelToken
from edge_runtime.model.contract import check_contract
from edge_runtime.model.decoder import Decoder, DecoderStep, KVBlocks, Logits, PortableDecoder
from edge_runtime.model.embeddings import TokenEmbeddings
from edge_runtime.model.fingerprint import fingerprint
from edge_runtime.model.graph import Graph, GraphSettings
from edge_runtime.model.kv_cache import KVCache
from edge_runtime.model.manifest import CHAT_TEMPLATE, TOKENIZER, VISION_GRAPH, decoder_graph_name
from edge_runtime.model.prompt import PromptBuilder, PromptOptions
from edge_runtime.model.ragged_decoder import RaggedDecoder
from edge_runtime.model.template import ChatTemplate
from edge_runtime.model.tokenizer import Tokenizer
from edge_runtime.vision.decoding import PictureDecoder
from edge_runtime.vision.encoder import MAX_PAIRS, VisionEncoder
from edge_runtime.vision.image import ImageLimits
from edge_runtime.vision.plan import MediaPlanner


@dataclass(frozen=True, slots=True)
class RunnerSettings:
    """How a bundle is run; the memory planner chooses the first three and the KV dtype."""

    max_context: int
    """Longest prompt plus answer, in tokens."""
    max_cache_tokens: int
    """Tokens of all chats in flight together."""
    max_pixels: int | None
    """Cap on an image, or a video frame, after resizing; None: the bundle's own."""
    graphs: GraphSettings
    image_limits: ImageLimits
    kv_dtype: KVDtype = "fp32"
    """How keys and values are stored: one of `manifest.kv_dtypes`."""
    kernels: KernelLibrary | None = None
    """Cuts pictures into patches; without it numpy does: the same bits, slower."""
    prefill_chunk: int = 512
    """What the engine runs of a prompt at a time, for a portable bundle: reuse begins at a multiple of it."""
    feature_cache_bytes: int = 0
    """For features of images that may be asked about again."""


class BundleRunner:
    """A loaded bundle of either flavour. Used by one thread at a time, but for `prepare`."""

    def __init__(self, bundle: Bundle, settings: RunnerSettings) -> None:
        """Load tokenizer, template and graphs. Raises `BundleError`."""
        manifest = bundle.manifest
        self._architecture = manifest.architecture
        self._special = manifest.special_tokens
        self._max_context = min(settings.max_context, manifest.architecture.text.max_position_embeddings)
        self._embeddings = TokenEmbeddings(bundle.path, manifest)
        # ONNX Runtime loads without the GIL, which the tokenizer holds: all at once is as fast as the slowest.
        with ThreadPoolExecutor(2, "load-graph") as pool:
            vision_graph = pool.submit(_load_vision, bundle, settings)
            decoder = pool.submit(_load_decoder, bundle, settings)
            self._tokenizer = Tokenizer(bundle.file(TOKENIZER))
            template = ChatTemplate(bundle.file(CHAT_TEMPLATE), manifest.special_tokens_map)
        self._prompts = PromptBuilder(self._tokenizer, template, manifest.special_tokens)
        self.grammars = Grammars(
            self._tokenizer.text_without_gaps, manifest.special_tokens.eos, self._tokenizer.added_tokens
        )
        """Makes grammars of answers. For any thread."""
        self._rotary = RotaryTables(manifest.architecture.text)
        self.media = _media_encoder(bundle, settings, vision_graph.result())
        self._decoder = decoder.result()
        self._preparing = threading.Lock()
        self.fingerprint = fingerprint(manifest, settings.kv_dtype)
        """What keys and values depend on."""

    @property
    def kv_cache(self) -> KVCache:
        """The cache that leases come from."""
        return self._decoder.kv_cache

    @property
    def kv_bytes_per_token(self) -> int:
        """What a token takes there, over all layers."""
        return self._decoder.kv_bytes_per_token

    @property
    def kv_blocks(self) -> KVBlocks:
        """Keys and values of leases, as they are stored."""
        return self._decoder

    @property
    def answers(self) -> DrawnAnswers:
        """Answers as they were drawn."""
        return self._prompts.answers

    @property
    def max_context(self) -> int:
        """Longest prompt plus answer, in tokens."""
        return self._max_context

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """Tokens that end an answer."""
        return frozenset(self._special.eos)

    @property
    def placeholder_ids(self) -> frozenset[int]:
        """Tokens that stand for images and videos."""
        return frozenset((self._special.image_pad, self._special.video_pad))

    @property
    def think_token_ids(self) -> tuple[int, int] | None:
        """Ids of `<think>` and `</think>`, or None where the model has none."""
        start, end = self._special.think_start, self._special.think_end
        return None if start is None or end is None else (start, end)

    @property
    def tool_call_token_ids(self) -> tuple[int, int] | None:
        """Ids of `<tool_call>` and `</tool_call>`, or None where the model has none."""
        return self._prompts.tool_call_ids

    @cached_property
    def thought_tokens(self) -> ThoughtTokens | None:
        """How thoughts are ended, or None where the model has none."""
        if self.think_token_ids is None:
            return None
        start, end = self.think_token_ids
        closing = self._tokenizer.encode("\n", add_special_tokens=False).tolist()
        gap = self._tokenizer.encode("\n\n", add_special_tokens=False).tolist()
        return ThoughtTokens(start, (*closing, end), tuple(gap))

    def prepare(self, request: GenerationRequest, cancel: CancelToken | None = None) -> TokenLog:
        """Template, token ids, positions; reads image headers only. For any thread, one at a time.

        Raises `BadImage`, `BadPrompt`, `BadParameter`, `ContextOverflow` for what cannot fit by far, `PicturesNeeded`,
        or `Cancelled`.
        """
        with self._preparing:
            return self._prepare(request, cancel or CancelToken())

    def _prepare(self, request: GenerationRequest, cancel: CancelToken) -> TokenLog:
        plans = self.media.plan(request.messages, self._max_context, cancel, request.options.salt)
        num_dropped = sum(plan.placeholder.num_tokens for plan in plans if plan.dropped)
        prompt = self._prompts.build(
            request.messages,
            [plan.placeholder for plan in plans],
            self._max_context + num_dropped,
            PromptOptions(
                enable_thinking=self._thinking(request.options),
                tools=request.options.offered_tools,
                parse_special=request.options.parse_special,
                salt=request.options.salt,
            ),
        )
        log = TokenLog(
            prompt.input_ids,
            self.media.media(request.messages, prompt.spans, plans, request.options.salt),
            positions=prompt_positions(len(prompt.input_ids), prompt.spans),
            starts_in_reasoning=prompt.starts_in_reasoning,
            short_ids=prompt.short_ids,
            salt=request.options.salt,
        )
        log.drop_marked(prompt.thoughts)
        self._refuse_far_positions(log)
        return log

    def _thinking(self, options: GenerationOptions) -> bool | None:
        """What the chat template is told: without effort no thought is begun, where it leaves the choice."""
        if options.effort == "none" and options.enable_thinking is None and self._prompts.switches_thinking:
            return False
        return options.enable_thinking

    def _refuse_far_positions(self, log: TokenLog) -> None:
        """Raise `ContextOverflow` where gaps have moved the end of a prompt past what the model was made for."""
        last, most = log.num_prompt + log.rope_delta, self._architecture.text.max_position_embeddings
        if last >= most:
            raise ContextOverflow(
                f"the prompt ends at position {last}, with what was dropped approximately, and the model was made for "
                f"{most}; drop images exactly, or begin another session"
            )

    def forward(self, steps: Sequence[Step]) -> list[Logits | None]:
        """Run the decoder on every step; per step the logits it wants; None if that is none, or it was cancelled."""
        return self._decoder.forward([self._rows(step) for step in steps])

    def score(self, token_ids: NDArray[np.int64], hidden: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits [n] of `token_ids` [n] after `hidden` [D], by the embedding table: the finer copy of an int4 head."""
        return np.asarray(self._embeddings.lookup(token_ids) @ hidden, dtype=np.float32)

    def remember(self, log: TokenLog) -> None:
        """Tokenize this answer as it was drawn when it comes back in a history."""
        self.answers.note(log.short_ids, log.output_ids, log.salt)

    def detokenize(self, token_ids: Sequence[int]) -> bytes:
        """The exact bytes the tokens stand for (special tokens give none)."""
        return self._tokenizer.detokenize(token_ids)

    def _rows(self, step: Step) -> DecoderStep:
        """What the decoder gets of the step's tokens: rows of text, and of the images among them."""
        start, stop = step.lease.length, step.lease.length + len(step.token_ids)
        embeds = self._embeddings.lookup(step.token_ids)
        deepstack = np.zeros((len(self._architecture.vision.deepstack_layers), *embeds.shape), dtype=np.float32)
        for media in step.log.media:
            first = media.span.start + media.num_dropped
            low, high = max(start, media.span.start), min(stop, media.span.stop)
            if low >= high:
                continue
            if media.features is None or low < first:
                raise InternalError(f"tokens {low} to {high} belong to an image that is not encoded, or was released")
            embeds[low - start : high - start] = media.features.embeds[low - first : high - first]
            deepstack[:, low - start : high - start] = media.features.deepstack[:, low - first : high - first]
        rope_cos, rope_sin = self._rotary(step.log.position_ids(start, stop))
        return DecoderStep(embeds, deepstack, rope_cos, rope_sin, step.lease, step.num_logits, step.cancel)


def _media_encoder(bundle: Bundle, settings: RunnerSettings, graph: Graph) -> MediaEncoder:
    manifest = bundle.manifest
    vision, decoder = manifest.architecture.vision, PictureDecoder(settings.image_limits)
    decoder.warm()  # when the graphs are loaded, and not when the first picture waits for it
    planner = MediaPlanner(manifest, settings.image_limits, settings.max_pixels)
    encoder = VisionEncoder(graph, vision, max_pairs=MAX_PAIRS[manifest.flavour])
    return MediaEncoder(planner, decoder, encoder, vision, settings.kernels, settings.feature_cache_bytes)


def _load_vision(bundle: Bundle, settings: RunnerSettings) -> Graph:
    graph = _load(bundle, VISION_GRAPH, settings)
    check_contract(graph, vision_contract(bundle.manifest.architecture.vision))
    return graph


def _load_decoder(bundle: Bundle, settings: RunnerSettings) -> Decoder:
    manifest = bundle.manifest
    graph = _load(bundle, decoder_graph_name(manifest.flavour, settings.kv_dtype), settings)
    if manifest.flavour == "edge":
        return RaggedDecoder(graph, manifest.architecture, settings.kv_dtype, settings.max_cache_tokens)
    return PortableDecoder(graph, manifest.architecture, settings.max_cache_tokens, settings.prefill_chunk)


def _load(bundle: Bundle, name: str, settings: RunnerSettings) -> Graph:
    return Graph(bundle.file(name), settings.graphs)
