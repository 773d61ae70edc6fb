"""Images and video frames of a prompt on their way to features: planned, decoded, encoded. Knows no text, no decoder.

They are decoded beside everything else, in a process of its own and one ahead of the vision encoder, which takes each
in parts. An error names the picture it is about.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from time import perf_counter

from edge_kernels.library import KernelLibrary
from edge_runtime.engine.model_runner import MediaTimings
from edge_runtime.errors import BadImage, EdgeError
from edge_runtime.families.qwen3_vl.config import VisionArchitecture
from edge_runtime.families.qwen3_vl.patchify import patchify
from edge_runtime.model.cancellation import CancelToken
from edge_runtime.model.conversation import ImagePart, Message, media_parts
from edge_runtime.model.prompt import refuse_overflow
from edge_runtime.vision.decoding import BadFrame, PendingPixels, PictureDecoder
from edge_runtime.vision.encoder import Encoding, VisionEncoder, VisionFeatures
from edge_runtime.vision.image import Pixels
from edge_runtime.vision.plan import MediaPlan, MediaPlanner, VisionRun


@dataclass(slots=True, eq=False)
class PromptMedia:
    """The vision runs of one prompt, and how far they are."""

    runs: list[VisionRun]
    """Still to do, in prompt order."""
    pixels: PendingPixels | None = None
    """The frames of the first of them that is not being encoded, on their way through the decoder."""
    encoding: Encoding | None = None
    """The first of them, once its pixels are there."""
    features: list[VisionFeatures | None] = field(default_factory=list)
    """Of the runs that are done; None once their tokens are in the cache."""

    @property
    def ready(self) -> bool:
        """Whether `MediaEncoder.advance` would not have to wait for pixels."""
        return self.encoding is not None or self.pixels is None or self.pixels.done()


class MediaEncoder:
    """Plans, decodes and encodes. Used by one thread at a time, but for `plan`."""

    def __init__(
        self,
        planner: MediaPlanner,
        decoder: PictureDecoder,
        encoder: VisionEncoder,
        vision: VisionArchitecture,
        kernels: KernelLibrary | None,
    ) -> None:
        """`kernels` cut pictures into patches; without them numpy does: the same bits, slower."""
        self._planner = planner
        self._decoder = decoder
        self._encoder = encoder
        self._vision = vision
        self._kernels = kernels

    def plan(self, messages: tuple[Message, ...], max_context: int, cancel: CancelToken) -> list[MediaPlan]:
        """The vision runs of all images and videos; each picture's header is read once, however many parts have it.

        Raises `BadImage`, `ContextOverflow` as soon as they are more than `max_context` tokens, or `Cancelled`.
        """
        media = list(media_parts(messages))
        places: dict[int, str] = {}
        pictures: dict[int, bytes | Pixels] = {}
        for place, part in media:
            frames = (part.data,) if isinstance(part, ImagePart) else part.frames
            for number, frame in enumerate(frames, 1):
                pictures.setdefault(id(frame), frame)
                places.setdefault(id(frame), place if isinstance(part, ImagePart) else f"{place}, frame {number}")
        try:
            sizes = dict(zip(pictures, self._decoder.sizes(list(pictures.values()), cancel), strict=True))
        except BadFrame as error:
            raise BadImage(f"{list(places.values())[error.index]}: {error}") from error
        plans, num_tokens = [], 0
        for place, part in media:
            cancel.raise_if_cancelled()
            with _named(place):
                plans.append(self._planner.plan(part, place, lambda frame: sizes[id(frame)]))
            num_tokens += plans[-1].placeholder.num_tokens
            refuse_overflow(num_tokens, "images and videos", max_context)
        return plans

    def start(self, media: PromptMedia) -> None:
        """Begin to decode the first image or frame pair."""
        self._decode(media, media.runs[0])

    def wait(self, media: PromptMedia, timeout_s: float) -> None:
        """Wait until `media.ready`, or the time has passed."""
        if media.pixels is not None:
            with suppress(EdgeError):  # what went wrong is for `advance` to say
                media.pixels.result(timeout_s)

    def advance(self, media: PromptMedia, cancel: CancelToken) -> MediaTimings:
        """Encode a part of the next image or frame pair, first waiting for its pixels.

        Raises `BadImage` or `Cancelled`, and what a shortage of this machine brings.
        """
        cancel.raise_if_cancelled()
        decode_ms = resize_ms = 0.0
        if media.encoding is None:
            decode_ms, resize_ms = self._begin(media)
        assert media.encoding is not None
        started = perf_counter()
        if media.encoding.advance(cancel):
            media.features.append(media.encoding.features)
            media.encoding = None
            media.runs.pop(0)
        return MediaTimings(decode_ms, resize_ms, vision_ms=(perf_counter() - started) * 1e3)

    def release(self, media: PromptMedia) -> None:
        """Stop what is still being done, and give back the memory that it holds in the encoder."""
        if media.pixels is not None:
            media.pixels.cancel()
        if media.encoding is not None:
            media.encoding.give_up()
            media.encoding = None

    def _begin(self, media: PromptMedia) -> tuple[float, float]:
        """Turn the pixels of the next run into patches; return the milliseconds of decoding, and of resizing."""
        run, vision = media.runs[0], self._vision
        if media.pixels is None:
            self._decode(media, run)
        assert media.pixels is not None
        with _named(run.place):
            pictures = media.pixels.result()
        media.pixels = None
        if len(media.runs) > 1:  # the next one is decoded while this one is encoded
            self._decode(media, media.runs[1])
        started = perf_counter()
        pixel_values = patchify(pictures.frames, run.normalization, vision, self._kernels)
        grid_h, grid_w = run.height // vision.patch_size, run.width // vision.patch_size
        media.encoding = self._encoder.begin(pixel_values, grid_h, grid_w)
        return pictures.decode_ms, pictures.resize_ms + (perf_counter() - started) * 1e3

    def _decode(self, media: PromptMedia, run: VisionRun) -> None:
        with _named(run.place):
            media.pixels = self._decoder.start(run.frames, run.height, run.width)


@contextmanager
def _named(place: str) -> Iterator[None]:
    """Say in a `BadImage` of the block which picture it is about."""
    try:
        yield
    except BadImage as error:
        raise BadImage(f"{place}: {error}") from error
