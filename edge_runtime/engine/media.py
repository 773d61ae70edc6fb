"""Images and video frames of a prompt on their way to features: planned, decoded, encoded. Knows no text, no decoder.

They are decoded beside everything else, in a process of its own and one ahead of the vision encoder, which takes each
in parts. An error names the picture it is about.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from time import perf_counter

import numpy as np

from edge_kernels.library import KernelLibrary
from edge_runtime.engine.model_runner import MediaTimings
from edge_runtime.engine.picture_cache import (
    FeatureCache,
    KnownPictures,
    PartDigests,
    frame_digests,
    pixel_digest,
    source_digest,
)
from edge_runtime.engine.token_log import Media, TokenLog
from edge_runtime.errors import BadImage, EdgeError, PicturesNeeded
from edge_runtime.families.qwen3_vl.config import VisionArchitecture
from edge_runtime.families.qwen3_vl.processor import VisionSpan, patchify
from edge_runtime.model.cancellation import CancelToken
from edge_runtime.model.conversation import ImagePart, Message, Picture, PictureDigest, frames_of, media_parts
from edge_runtime.model.prompt import refuse_overflow
from edge_runtime.vision.decoding import BadFrame, PictureDecoder
from edge_runtime.vision.encoder import VisionEncoder
from edge_runtime.vision.plan import MediaPlan, MediaPlanner


class MediaEncoder:
    """Plans, decodes and encodes. Used by one thread at a time, but for `plan`."""

    def __init__(
        self,
        planner: MediaPlanner,
        decoder: PictureDecoder,
        encoder: VisionEncoder,
        vision: VisionArchitecture,
        kernels: KernelLibrary | None,
        cache_bytes: int = 0,
    ) -> None:
        """`kernels` cut pictures into patches; without them numpy does: the same bits, slower.

        `cache_bytes`: for features that are kept, the most recently used ones.
        """
        self._planner = planner
        self._decoder = decoder
        self._encoder = encoder
        self._vision = vision
        self._kernels = kernels
        self._digests = PartDigests()
        self._known = KnownPictures()
        self._cache = FeatureCache(cache_bytes)

    @property
    def feature_bytes(self) -> int:
        """Features that are kept for images asked about again."""
        return self._cache.num_bytes

    @property
    def max_feature_bytes(self) -> int:
        """Room for them."""
        return self._cache.max_bytes

    def plan(
        self, messages: tuple[Message, ...], max_context: int, cancel: CancelToken, salt: bytes = b""
    ) -> list[MediaPlan]:
        """The vision runs of all images and videos; each picture's header is read once, however many parts have it.

        Raises `BadImage`, `ContextOverflow` as soon as they are more than `max_context` tokens, `Cancelled`, or
        `PicturesNeeded` for pictures that never came with `salt`, or not lately.
        """
        parts = list(media_parts(messages))
        places: dict[int, str] = {}
        pictures: dict[int, Picture] = {}
        for place, part in parts:
            for number, frame in enumerate(frames_of(part), 1):
                pictures.setdefault(id(frame), frame)
                places.setdefault(id(frame), place if isinstance(part, ImagePart) else f"{place}, frame {number}")
        sizes = self._sizes(pictures, places, cancel, salt)
        plans, num_tokens = [], 0
        for place, part in parts:
            cancel.raise_if_cancelled()
            with _named(place):
                plans.append(self._planner.plan(part, place, lambda frame: sizes[id(frame)]))
            num_tokens += 0 if part.dropped else plans[-1].placeholder.num_tokens
            refuse_overflow(num_tokens, "images and videos", max_context)
        return plans

    def media(
        self, messages: tuple[Message, ...], spans: Sequence[VisionSpan], plans: Sequence[MediaPlan], salt: bytes
    ) -> list[Media]:
        """The runs that `plan` gave, at their places in a log, and what their pixels are if they were seen before.

        For any thread. Raises `PicturesNeeded` where they were not, and the picture itself is not there either.
        """
        runs = [(plan, run) for plan in plans for run in plan.runs]
        digests = self._digests.of(part for _, part in media_parts(messages))
        media = []
        for span, (plan, run) in zip(spans, runs, strict=True):
            for frame in run.frames:
                self._known.note_size(digests[id(frame)], salt, run.source_size)
            source = source_digest(run, digests, salt)
            image_size = run.source_size if plan.placeholder.kind == "image" else None
            known = self._known.digest(source)
            media.append(Media(span, run, source, known, image_size=image_size, dropped=plan.dropped))
        _need(one for one in media if one.digest is None and not one.dropped)
        return media

    def recognize(self, media: Media, digest: bytes) -> None:
        """As `MediaStage.recognize`."""
        media.digest = digest
        self._known.note(media.source, digest)

    def start(self, log: TokenLog) -> None:
        """Begin to decode the next image or frame pair of `log`, if it has to be.

        Raises `PicturesNeeded` if that, or one that follows, has to be decoded and is not there.
        """
        media = log.next_media
        if media is not None:
            media.is_started = True
            self._need_pictures(log)
            if media.pixels is None and media.encoding is None and media.digest not in self._cache:
                self._decode(log, media)

    def wait(self, log: TokenLog, timeout_s: float) -> None:
        """Wait until `log.next_media` is ready, or the time has passed."""
        media = log.next_media
        if media is not None and media.pixels is not None:
            with suppress(EdgeError):  # what went wrong is for `advance` to say
                media.pixels.result(timeout_s)

    def advance(self, log: TokenLog, cancel: CancelToken) -> MediaTimings:
        """Encode a part of the next image or frame pair of `log`, first waiting for its pixels.

        Raises `BadImage` or `Cancelled`, and what a shortage of this machine brings.
        """
        cancel.raise_if_cancelled()
        media = log.next_media
        assert media is not None
        decode_ms = resize_ms = 0.0
        if media.encoding is None and not self._recall(media):
            if media.pixels is None and media.is_started:  # its features were there when it was started, and are gone
                self._decode(log, media)
                return MediaTimings(0.0, 0.0, 0.0)
            decode_ms, resize_ms = self._begin(log, media)
            self._recall(media)  # by its pixels, if not by its bytes
            if media.encoding is not None and media.is_started:  # enough for one step: others wait
                return MediaTimings(decode_ms, resize_ms, 0.0)
        is_reused = media.encoding is None
        started = perf_counter()
        if media.encoding is not None and media.encoding.advance(cancel):
            media.features = media.encoding.features
            media.encoding = media.run = None
            assert media.digest is not None
            self._cache.put(media.digest, media.features)
        vision_ms = 0.0 if is_reused else (perf_counter() - started) * 1e3
        if media.run is None and media.is_started:
            self.start(log)
        return MediaTimings(decode_ms, resize_ms, vision_ms, is_reused)

    def release(self, log: TokenLog) -> None:
        """Stop what is still being done, and give back the memory that it holds in the encoder."""
        for media in log.media:
            if media.pixels is not None:
                media.pixels.cancel()
            if media.encoding is not None:
                media.encoding.give_up()
                media.encoding = None

    def _begin(self, log: TokenLog, media: Media) -> tuple[float, float]:
        """Turn the pixels of `media` into patches; return the milliseconds of decoding, and of resizing."""
        run, vision = media.run, self._vision
        assert run is not None
        if media.pixels is None:
            self._decode(log, media)
        assert media.pixels is not None
        with _named(run.place):
            pictures = media.pixels.result()
        media.pixels = None
        for following in log.media[log.media.index(media) + 1 :]:
            if following.pixels is None and following.digest not in self._cache:
                self._decode(log, following)  # while this one is encoded
                break
        started = perf_counter()
        if any(isinstance(frame, np.ndarray) and frame.flags.writeable for frame in run.frames) and (
            source_digest(run, frame_digests(run.frames), log.salt) != media.source
        ):
            raise BadImage(f"{run.place}: its pixels were changed after the request was made; give a copy of the array")
        media.digest = pixel_digest(pictures.frames, run.normalization, log.salt)
        self._known.note(media.source, media.digest)
        if media.digest in self._cache:
            return pictures.decode_ms, pictures.resize_ms + (perf_counter() - started) * 1e3
        pixel_values = patchify(pictures.frames, run.normalization, vision, self._kernels)
        grid_h, grid_w = run.height // vision.patch_size, run.width // vision.patch_size
        media.encoding = self._encoder.begin(pixel_values, grid_h, grid_w)
        return pictures.decode_ms, pictures.resize_ms + (perf_counter() - started) * 1e3

    def _recall(self, media: Media) -> bool:
        """Take the features of `media`, if they are kept; returns whether they were."""
        features = None if media.digest is None else self._cache.get(media.digest)
        if features is None:
            return False
        if media.pixels is not None:
            media.pixels.cancel()
        media.features, media.pixels, media.encoding, media.run = features, None, None, None
        return True

    def _decode(self, log: TokenLog, media: Media) -> None:
        self._need_pictures(log)
        run = media.run
        assert run is not None
        frames = [frame for frame in run.frames if not isinstance(frame, PictureDigest)]
        with _named(run.place):
            media.pixels = self._decoder.start(frames, run.height, run.width)

    def _need_pictures(self, log: TokenLog) -> None:
        """Raise `PicturesNeeded` for all that `log` has by digest alone and that have to be decoded."""
        _need(one for one in log.media if one.encoding is None and one.digest not in self._cache)

    def _sizes(
        self, pictures: Mapping[int, Picture], places: Mapping[int, str], cancel: CancelToken, salt: bytes
    ) -> dict[int, tuple[int, int]]:
        """Height and width of each picture; its place is for errors."""
        sizes, needed, sent = {}, [], {}
        for key, picture in pictures.items():
            if not isinstance(picture, PictureDigest):
                sent[key] = picture
            elif (size := self._known.size(picture.digest, salt)) is not None:
                sizes[key] = size
            else:
                needed.append(picture.digest)
        if needed:
            raise PicturesNeeded.of(needed)
        try:
            sizes.update(zip(sent, self._decoder.sizes(list(sent.values()), cancel), strict=True))
        except BadFrame as error:
            raise BadImage(f"{places[list(sent)[error.index]]}: {error}") from error
        return sizes


def _need(media: Iterable[Media]) -> None:
    """Raise `PicturesNeeded` for the frames that those of `media` that are not encoded have by digest alone."""
    runs = [one.run for one in media if one.run is not None]
    needed = [frame.digest for run in runs for frame in run.frames if isinstance(frame, PictureDigest)]
    if needed:
        raise PicturesNeeded.of(needed)


@contextmanager
def _named(place: str) -> Iterator[None]:
    """Say in a `BadImage` of the block which picture it is about."""
    try:
        yield
    except BadImage as error:
        raise BadImage(f"{place}: {error}") from error
