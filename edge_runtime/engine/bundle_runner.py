"""The real `ModelRunner`: a bundle's prompt builder, vision encoder and decoder, joined. Knows no queue, no sampling.

A prompt is prepared from headers alone, its images become features in `media.py`; a forward run takes rows of text and
image features for its tokens, and hands their memory back once they are in the KV cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_kernels.library import KernelLibrary
from edge_runtime.devices.profile import KVDtype
from edge_runtime.engine.media import MediaEncoder, PromptMedia
from edge_runtime.engine.model_runner import MediaTimings, Step
from edge_runtime.engine.request import GenerationRequest
from edge_runtime.engine.rescoring import Rescorer
from edge_runtime.errors import InternalError
from edge_runtime.families.qwen3_vl.decoder import RotaryTables, prompt_positions
from edge_runtime.families.qwen3_vl.processor import VisionSpan
from edge_runtime.families.qwen3_vl.vision import vision_contract
from edge_runtime.model.bundle import Bundle
from edge_runtime.model.cancellation import CancelToken
from edge_runtime.model.contract import check_contract
from edge_runtime.model.decoder import Decoder, DecoderInputs, DecoderStep, PortableDecoder
from edge_runtime.model.embeddings import TokenEmbeddings
from edge_runtime.model.graph import Graph, GraphSettings
from edge_runtime.model.kv_cache import KVCache
from edge_runtime.model.manifest import CHAT_TEMPLATE, TOKENIZER, VISION_GRAPH, decoder_graph_name
from edge_runtime.model.prompt import PromptBuilder
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


@dataclass(slots=True, eq=False)
class BundlePrompt:
    """A prepared prompt. `media.features[i]` belongs to `spans[i]`."""

    input_ids: NDArray[np.int64]
    spans: tuple[VisionSpan, ...]
    position_ids: NDArray[np.int64]
    """[3, T]"""
    rope_delta: int
    starts_in_reasoning: bool
    media: PromptMedia

    @property
    def image_tokens(self) -> int:
        """How many of the ids are image or video placeholders."""
        return sum(span.grid.num_tokens for span in self.spans)

    @property
    def pending_media(self) -> int:
        """Vision runs still to do."""
        return len(self.media.runs)

    @property
    def media_ready(self) -> bool:
        """Whether the next run has its pixels."""
        return self.media.ready

    @property
    def media_begun(self) -> bool:
        """Whether the encoder is in the middle of the next run."""
        return self.media.encoding is not None


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
            decoder = pool.submit(_load_decoder, bundle, settings, Rescorer(self._embeddings))
            self._tokenizer = Tokenizer(bundle.file(TOKENIZER))
            template = ChatTemplate(bundle.file(CHAT_TEMPLATE), manifest.special_tokens_map)
        self._prompts = PromptBuilder(self._tokenizer, template, manifest.special_tokens)
        self._rotary = RotaryTables(manifest.architecture.text)
        self._media = _media_encoder(bundle, settings, vision_graph.result())
        self._decoder = decoder.result()

    @property
    def kv_cache(self) -> KVCache:
        """The cache that leases come from."""
        return self._decoder.kv_cache

    @property
    def max_context(self) -> int:
        """Longest prompt plus answer, in tokens."""
        return self._max_context

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """Tokens that end an answer."""
        return frozenset(self._special.eos)

    @property
    def think_token_ids(self) -> tuple[int, int] | None:
        """Ids of `<think>` and `</think>`, or None where the model has none."""
        start, end = self._special.think_start, self._special.think_end
        return None if start is None or end is None else (start, end)

    def prepare(self, request: GenerationRequest, cancel: CancelToken | None = None) -> BundlePrompt:
        """Template, token ids, positions; reads image headers only.

        Raises `BadImage`, `BadPrompt`, `BadParameter`, `ContextOverflow` for what cannot fit by far, or `Cancelled`.
        """
        plans = self._media.plan(request.messages, self._max_context, cancel or CancelToken())
        placeholders = [plan.placeholder for plan in plans]
        prompt = self._prompts.build(
            request.messages,
            placeholders,
            self._max_context,
            request.options.enable_thinking,
            parse_special=request.options.parse_special,
        )
        position_ids, rope_delta = prompt_positions(len(prompt.input_ids), prompt.spans)
        return BundlePrompt(
            input_ids=prompt.input_ids,
            spans=prompt.spans,
            position_ids=position_ids,
            rope_delta=rope_delta,
            starts_in_reasoning=prompt.starts_in_reasoning,
            media=PromptMedia([run for plan in plans for run in plan.runs]),
        )

    def starts_in_reasoning(self, prompt: BundlePrompt) -> bool:
        """Whether the prompt ends inside an open `<think>`."""
        return prompt.starts_in_reasoning

    def start_media(self, prompt: BundlePrompt) -> None:
        """Begin to decode the first image or frame pair of `prompt`."""
        self._media.start(prompt.media)

    def wait_for_media(self, prompt: BundlePrompt, timeout_s: float) -> None:
        """Wait until the pixels of the next run are there, or the time has passed."""
        self._media.wait(prompt.media, timeout_s)

    def encode_next(self, prompt: BundlePrompt, cancel: CancelToken) -> MediaTimings:
        """Encode a part of the next image or frame pair of `prompt`. Raises as `MediaEncoder.advance`."""
        return self._media.advance(prompt.media, cancel)

    def release(self, prompt: BundlePrompt) -> None:
        """Stop what is still being done for `prompt`, and give back the memory that it holds in the encoder."""
        self._media.release(prompt.media)

    def forward(self, steps: Sequence[Step]) -> list[NDArray[np.float32] | None]:
        """Run the decoder on every step; per step the last token's logits [V]; None where unwanted or cancelled."""
        logits = self._decoder.forward([self._decoder_step(step) for step in steps])
        for step in steps:
            _release_features(step.prompt, step.lease.length)
        return logits

    def detokenize(self, token_ids: Sequence[int]) -> bytes:
        """The exact bytes the tokens stand for (special tokens give none)."""
        return self._tokenizer.detokenize(token_ids)

    def _decoder_step(self, step: Step) -> DecoderStep:
        if not isinstance(step.prompt, BundlePrompt):
            raise InternalError("a step must hold a prompt of this runner")
        inputs = self._rows(step.prompt, step.token_ids, step.lease.length)
        return DecoderStep(inputs, step.lease, step.want_logits, step.cancel, step.num_candidates)

    def _rows(self, prompt: BundlePrompt, token_ids: NDArray[np.int64], start: int) -> DecoderInputs:
        """Decoder inputs of `token_ids` [T], which lie at `start` of the chat's log."""
        stop = start + len(token_ids)
        embeds = self._embeddings.lookup(token_ids)
        deepstack = np.zeros((len(self._architecture.vision.deepstack_layers), *embeds.shape), dtype=np.float32)
        for i, span in enumerate(prompt.spans):
            low, high = max(start, span.start), min(stop, span.stop)
            if low >= high:
                continue
            features = prompt.media.features[i] if i < len(prompt.media.features) else None
            if features is None:
                raise InternalError(f"tokens {low} to {high} belong to an image that is not encoded, or was released")
            embeds[low - start : high - start] = features.embeds[low - span.start : high - span.start]
            deepstack[:, low - start : high - start] = features.deepstack[:, low - span.start : high - span.start]
        rope_cos, rope_sin = self._rotary(_positions(prompt, start, stop))
        return DecoderInputs(inputs_embeds=embeds, deepstack=deepstack, rope_cos=rope_cos, rope_sin=rope_sin)


def _positions(prompt: BundlePrompt, start: int, stop: int) -> NDArray[np.int64]:
    """Position ids [3, stop - start] of the log's tokens; past the prompt they count on from its rope delta."""
    in_prompt = prompt.position_ids[:, start:stop]
    after = np.arange(max(start, len(prompt.input_ids)), stop) + prompt.rope_delta
    return np.concatenate((in_prompt, np.broadcast_to(after, (3, len(after)))), axis=1)


def _release_features(prompt: BundlePrompt, length: int) -> None:
    """Drop image features whose tokens are all in the cache."""
    for i, span in enumerate(prompt.spans[: len(prompt.media.features)]):
        if span.stop <= length:
            prompt.media.features[i] = None


def _media_encoder(bundle: Bundle, settings: RunnerSettings, graph: Graph) -> MediaEncoder:
    manifest = bundle.manifest
    vision, decoder = manifest.architecture.vision, PictureDecoder(settings.image_limits)
    decoder.warm()  # when the graphs are loaded, and not when the first picture waits for it
    planner = MediaPlanner(manifest, settings.image_limits, settings.max_pixels)
    encoder = VisionEncoder(graph, vision, max_pairs=MAX_PAIRS[manifest.flavour])
    return MediaEncoder(planner, decoder, encoder, vision, settings.kernels)


def _load_vision(bundle: Bundle, settings: RunnerSettings) -> Graph:
    graph = _load(bundle, VISION_GRAPH, settings)
    check_contract(graph, vision_contract(bundle.manifest.architecture.vision))
    return graph


def _load_decoder(bundle: Bundle, settings: RunnerSettings, rescorer: Rescorer) -> Decoder:
    manifest = bundle.manifest
    graph = _load(bundle, decoder_graph_name(manifest.flavour, settings.kv_dtype), settings)
    refine = rescorer if "hidden" in graph.outputs else None
    if manifest.flavour == "edge":
        return RaggedDecoder(graph, manifest.architecture, settings.kv_dtype, settings.max_cache_tokens, refine)
    return PortableDecoder(graph, manifest.architecture, settings.max_cache_tokens, refine)


def _load(bundle: Bundle, name: str, settings: RunnerSettings) -> Graph:
    return Graph(bundle.file(name), settings.graphs)
