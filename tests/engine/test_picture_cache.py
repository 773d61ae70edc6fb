"""Pictures are known by what they are: never by name or place, and never one for another."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edge_kernels.library import KernelLibrary
from edge_runtime.engine.engine import Engine
from edge_runtime.engine.events import Finished
from edge_runtime.engine.picture_cache import FeatureCache, KnownPictures, pixel_digest, source_digests
from edge_runtime.engine.request import GenerationOptions, GenerationRequest
from edge_runtime.families.qwen3_vl.processor import Normalization
from edge_runtime.model.conversation import ImagePart, Message, TextPart
from edge_runtime.vision.decoding import PictureDecoder
from edge_runtime.vision.encoder import VisionFeatures
from edge_runtime.vision.pending import PendingPixels
from edge_runtime.vision.plan import VisionRun
from tests.engine.test_reuse_bits import engine_of

NORMAL = Normalization.of((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
SCENE = np.random.default_rng(5).integers(0, 256, (96, 160, 3), dtype=np.uint8)


def run_of(*frames: bytes | np.ndarray, size: tuple[int, int] = (64, 96), normal: Normalization = NORMAL) -> VisionRun:
    return VisionRun(frames, *size, normal)


def test_equal_bytes_of_another_shape_size_or_kind_are_other_pictures() -> None:
    pixels = np.arange(96, dtype=np.uint8)
    runs = [
        run_of(pixels.reshape(4, 8, 3)),
        run_of(pixels.reshape(8, 4, 3)),
        run_of(pixels.tobytes()),
        run_of(pixels.reshape(4, 8, 3), size=(96, 64)),
        run_of(pixels.reshape(4, 8, 3), normal=Normalization.of((0.4, 0.5, 0.5), (0.5, 0.5, 0.5))),
        run_of(pixels.reshape(4, 8, 3), pixels.reshape(4, 8, 3)),
        run_of(pixels.tobytes()[:48], pixels.tobytes()[48:]),
        run_of(pixels.tobytes()[:47], pixels.tobytes()[47:]),
    ]
    assert len(set(source_digests(runs))) == len(runs)
    shapes = [(pixels.reshape(shape),) for shape in ((4, 8, 3), (8, 4, 3), (2, 16, 3))]
    halves = (pixels.reshape(4, 8, 3)[:2], pixels.reshape(4, 8, 3)[2:])
    digests = {pixel_digest(frames, NORMAL) for frames in (*shapes, halves)}
    assert len(digests) == 4


def test_under_another_salt_every_picture_is_another() -> None:
    pixels = np.arange(96, dtype=np.uint8).reshape(4, 8, 3)
    salts = [GenerationOptions(cache_salt=word).salt for word in ("", "a", "b")]
    assert (salts[0], [len(salt) for salt in salts]) == (b"", [0, 16, 16])
    assert len({source_digests([run_of(pixels)], salt)[0] for salt in salts}) == 3
    assert len({pixel_digest((pixels,), NORMAL, salt) for salt in salts}) == 3


def test_equal_pictures_are_equal_wherever_their_bytes_lie() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    strided = np.zeros((8, 24, 3), np.uint8)[:, ::2]
    strided[:] = pixels
    assert (
        source_digests([run_of(pixels)]) == source_digests([run_of(strided)]) == source_digests([run_of(pixels.copy())])
    )
    assert pixel_digest((pixels,), NORMAL) == pixel_digest((strided,), NORMAL)


def test_a_frame_that_many_runs_have_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from edge_runtime.engine import picture_cache

    read: list[int] = []
    monkeypatch.setattr(picture_cache, "_frame_digest", lambda frame: read.append(len(frame)) or b"x")
    frame = bytes(1000)
    source_digests([run_of(frame, frame) for _ in range(50)])
    assert read == [1000]


def features(num_tokens: int) -> VisionFeatures:
    return VisionFeatures(np.zeros((num_tokens, 4), np.float32), np.zeros((1, num_tokens, 4), np.float32))


def test_features_used_least_recently_go_first_and_the_budget_holds() -> None:
    cache = FeatureCache(max_bytes=3 * features(2).num_bytes)
    for name in (b"a", b"b", b"c"):
        cache.put(name, features(2))
    assert cache.get(b"a") is not None
    cache.put(b"d", features(2))
    assert [name in cache for name in (b"a", b"b", b"c", b"d", None)] == [True, False, True, True, False]
    cache.put(b"large", features(7))
    assert b"large" not in cache
    cache.put(b"e", features(4))
    assert cache.num_bytes <= 3 * features(2).num_bytes
    assert [name in cache for name in (b"a", b"c", b"d", b"e")] == [False, False, True, True]


def test_known_pictures_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_runtime.engine.picture_cache._MAX_KNOWN", 2)
    known = KnownPictures()
    for name in (b"1", b"2"):
        known.note(name, b"pixels of " + name)
    assert known.digest(b"1") == b"pixels of 1"
    known.note(b"3", b"pixels of 3")
    assert [known.digest(name) for name in (b"1", b"2", b"3")] == [b"pixels of 1", None, b"pixels of 3"]


def ask(engine: Engine, picture: bytes | np.ndarray, text: str, **options: Any) -> Finished:
    *_, last = engine.generate(
        GenerationRequest("r", (Message("user", [TextPart(text), ImagePart(picture)]),), max_tokens=4, **options)
    )
    assert isinstance(last, Finished)
    return last


def test_a_picture_seen_before_is_neither_decoded_nor_encoded(
    tiny_bundle_edge: Path, kernel_library: KernelLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []
    start = PictureDecoder.start

    def counting(decoder: PictureDecoder, frames, height, width):  # type: ignore[no-untyped-def]
        started.append(len(frames))
        return start(decoder, frames, height, width)

    monkeypatch.setattr(PictureDecoder, "start", counting)
    engine = engine_of(tiny_bundle_edge, kernel_library)
    stream = BytesIO()
    Image.fromarray(SCENE).save(stream, "PNG")
    asked = [ask(engine, picture, text) for picture, text in ((stream.getvalue(), "a"), (stream.getvalue(), "b " * 50))]
    assert (len(started), [one.timings.vision_cached for one in asked]) == (1, [0, 1])
    # The same pixels in another form have to be looked at, and are known then.
    raw = ask(engine, SCENE, "c " * 50)
    assert (len(started), raw.timings.vision_cached) == (2, 1)
    fresh = ask(engine_of(tiny_bundle_edge, kernel_library), SCENE, "c " * 50)
    assert raw.token_ids == fresh.token_ids


def test_pixels_that_change_after_the_request_are_refused_and_poison_nothing(
    tiny_bundle_edge: Path, kernel_library: KernelLibrary
) -> None:
    engine = engine_of(tiny_bundle_edge, kernel_library)
    buffer, other = SCENE.copy(), SCENE[::-1].copy()
    engine.submit(GenerationRequest("r", (Message("user", [ImagePart(buffer), "what is it?"]),), max_tokens=4))
    buffer[:] = other
    events = []
    while engine.has_work:
        events += engine.step()
    assert "were changed after the request was made" in str(events[-1].error)
    for picture in (SCENE, other):
        fresh = ask(engine_of(tiny_bundle_edge, kernel_library), picture, "c " * 50)
        assert ask(engine, picture, "c " * 50).token_ids == fresh.token_ids


def test_nobody_waits_for_a_picture_behind_one_that_was_seen_before(
    tiny_bundle_edge: Path, kernel_library: KernelLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first is recalled, so nothing is encoded while the second is decoded: the engine has to go on."""
    engine = engine_of(tiny_bundle_edge, kernel_library)
    ask(engine, SCENE, "seen")
    waits: list[bool] = []
    result = PendingPixels.result

    def noting(pixels: PendingPixels, timeout_s: float | None = None):  # type: ignore[no-untyped-def]
        waits.append(pixels.done())
        return result(pixels, timeout_s)

    monkeypatch.setattr(PendingPixels, "result", noting)
    stream = BytesIO()
    Image.fromarray(np.random.default_rng(8).integers(0, 256, (900, 900, 3), dtype=np.uint8)).save(stream, "PNG")
    engine.submit(GenerationRequest("talks", (Message("user", "hello"),), max_tokens=400))
    for _ in range(5):
        engine.step()
    parts = [TextPart("other words "), ImagePart(SCENE), ImagePart(stream.getvalue()), TextPart("what?")]
    engine.submit(GenerationRequest("looks", (Message("user", parts),), max_tokens=2))
    while engine.has_work:
        engine.step()
    assert waits == [True]


def test_a_picture_that_comes_twice_is_not_decoded_for_nothing(
    tiny_bundle_edge: Path, kernel_library: KernelLibrary
) -> None:
    engine = engine_of(tiny_bundle_edge, kernel_library)
    parts = [ImagePart(SCENE), ImagePart(SCENE), ImagePart(SCENE[::-1]), TextPart("what?")]
    engine.submit(GenerationRequest("r", (Message("user", parts),), max_tokens=2))
    log = engine._chats["r"].log
    events = []
    while engine.has_work:
        events += engine.step()
    assert events[-1].timings.vision_cached == 1
    assert all(media.pixels is None for media in log.media)
