"""Pictures are known by what they are: never by name or place, and never one for another."""

from __future__ import annotations

import gc
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge_kernels.library import KernelLibrary
from edge_runtime.engine.engine import Engine
from edge_runtime.engine.events import Failed, Finished
from edge_runtime.engine.picture_cache import (
    FeatureCache,
    KnownPictures,
    PartDigests,
    frame_digests,
    pixel_digest,
    source_digest,
)
from edge_runtime.engine.request import GenerationOptions, GenerationRequest
from edge_runtime.errors import PicturesNeeded
from edge_runtime.families.qwen3_vl.processor import Normalization
from edge_runtime.model.conversation import ImagePart, Message, Picture, PictureDigest, TextPart, VideoPart
from edge_runtime.vision.decoding import PictureDecoder
from edge_runtime.vision.encoder import VisionFeatures
from edge_runtime.vision.pending import PendingPixels
from edge_runtime.vision.plan import VisionRun
from tests.engine.tiny_engine import engine_of

NORMAL = Normalization.of((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
SCENE = np.random.default_rng(5).integers(0, 256, (96, 160, 3), dtype=np.uint8)


def run_of(*frames: bytes | np.ndarray, size: tuple[int, int] = (64, 96), normal: Normalization = NORMAL) -> VisionRun:
    return VisionRun(frames, *size, normal)


def source_of(run: VisionRun, salt: bytes = b"") -> bytes:
    return source_digest(run, frame_digests(run.frames), salt)


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
    assert len({source_of(run) for run in runs}) == len(runs)
    shapes = [(pixels.reshape(shape),) for shape in ((4, 8, 3), (8, 4, 3), (2, 16, 3))]
    halves = (pixels.reshape(4, 8, 3)[:2], pixels.reshape(4, 8, 3)[2:])
    digests = {pixel_digest(frames, NORMAL) for frames in (*shapes, halves)}
    assert len(digests) == 4


def test_under_another_salt_every_picture_is_another() -> None:
    pixels = np.arange(96, dtype=np.uint8).reshape(4, 8, 3)
    salts = [GenerationOptions(cache_salt=word).salt for word in ("", "a", "b")]
    assert (salts[0], [len(salt) for salt in salts]) == (b"", [0, 16, 16])
    assert len({source_of(run_of(pixels), salt) for salt in salts}) == 3
    assert len({pixel_digest((pixels,), NORMAL, salt) for salt in salts}) == 3


def test_equal_pictures_are_equal_wherever_their_bytes_lie() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    strided = np.zeros((8, 24, 3), np.uint8)[:, ::2]
    strided[:] = pixels
    assert source_of(run_of(pixels)) == source_of(run_of(strided)) == source_of(run_of(pixels.copy()))
    assert pixel_digest((pixels,), NORMAL) == pixel_digest((strided,), NORMAL)


def test_a_frame_that_comes_often_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    monkeypatch.setattr(PictureDigest, "of", lambda frame: read.append(len(frame)) or PictureDigest(b"x"))
    frame = bytes(1000)
    assert frame_digests([frame] * 100) == {id(frame): b"x"}
    assert read == [1000]


def test_a_digest_stands_for_the_picture_it_is_of() -> None:
    """Whoever has but the digest comes to the same source as whoever has the bytes."""
    pixels = np.arange(96, dtype=np.uint8).reshape(4, 8, 3)
    for frame in (pixels, pixels.tobytes()):
        assert source_of(run_of(PictureDigest.of(frame))) == source_of(run_of(frame))


def test_the_digests_of_a_part_that_is_kept_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody can change its frames: not where they are an array that its owner may write to, or might again."""
    read: list[int] = []
    of = PictureDigest.of
    monkeypatch.setattr(PictureDigest, "of", lambda frame: read.append(len(frame)) or of(frame))
    pixels = np.arange(96, dtype=np.uint8).reshape(4, 8, 3)
    locked = pixels.copy()
    locked.flags.writeable = False
    fixed = np.frombuffer(memoryview(bytes(96)), np.uint8).reshape(4, 8, 3)
    lent = np.frombuffer(memoryview(bytearray(96)).toreadonly(), np.uint8).reshape(4, 8, 3)
    digests = PartDigests()
    for frame, times in (
        (bytes(96), 1),
        (fixed, 1),
        (fixed[:, ::-1], 1),
        (pixels, 3),
        (locked, 3),
        (locked[1:], 3),
        (lent, 3),
    ):
        part = VideoPart((frame, frame), (0.0, 1.0))
        read.clear()
        for _ in range(3):
            assert digests.of([part, part]) == {id(frame): of(frame).digest}
        assert len(read) == times
    pixels[0] += 1
    assert digests.of([ImagePart(pixels)]) == {id(pixels): of(pixels).digest}
    del part
    gc.collect()
    assert len(digests._known) == 0


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


def last(engine: Engine, picture: Picture, text: str, after: str = "") -> Finished | Failed:
    parts = [TextPart(text), ImagePart(picture), TextPart(after)]
    *_, event = engine.generate(GenerationRequest("r", (Message("user", parts),), max_tokens=4))
    assert isinstance(event, (Finished, Failed))
    return event


def ask(engine: Engine, picture: Picture, text: str, after: str = "") -> Finished:
    event = last(engine, picture, text, after)
    assert isinstance(event, Finished), event
    return event


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


def evict(engine: Engine, *, features: bool, blocks: bool) -> None:
    """As if others had needed the room."""
    runner = engine._runner
    if features:
        runner.media._cache = FeatureCache(1 << 20)  # type: ignore[attr-defined]
    if blocks:
        lease = runner.kv_cache.lease(runner.kv_cache.max_tokens)
        assert lease is not None
        lease.free()


def test_a_picture_by_digest_is_answered_from_what_is_known_of_it(
    tiny_bundle_edge: Path, kernel_library: KernelLibrary
) -> None:
    """Its features or its keys and values will do; without either, and before it came, it is needed."""
    engine = engine_of(tiny_bundle_edge, kernel_library)
    digest = PictureDigest.of(SCENE)
    question = ("what is it? ", "tell me more about it. " * 50)
    with pytest.raises(PicturesNeeded) as never_seen:
        ask(engine, digest, *question)
    assert never_seen.value.digests == (digest.digest,)
    first = ask(engine, SCENE, *question)
    assert ask(engine, digest, *question).token_ids == first.token_ids
    evict(engine, features=True, blocks=False)
    assert ask(engine, digest, *question).token_ids == first.token_ids
    ask(engine, SCENE, "another question")
    evict(engine, features=False, blocks=True)
    found = ask(engine, digest, *question)
    assert (found.token_ids, found.timings.cached_tokens, found.timings.vision_cached) == (first.token_ids, 0, 1)
    evict(engine, features=True, blocks=True)
    failed = last(engine, digest, *question)
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, PicturesNeeded)
    assert failed.error.digests == (digest.digest,)
    assert engine._runner.kv_cache.free_tokens == engine._runner.kv_cache.max_tokens
    assert ask(engine, SCENE, *question).token_ids == first.token_ids


def test_all_pictures_that_are_needed_are_named_at_once(tiny_bundle_edge: Path, kernel_library: KernelLibrary) -> None:
    engine = engine_of(tiny_bundle_edge, kernel_library)
    others = [SCENE[::-1], SCENE[:, ::-1]]
    digests = [PictureDigest.of(picture) for picture in (SCENE, *others)]
    for picture in others:
        ask(engine, picture, "what?")
    parts = [TextPart("see "), *map(ImagePart, (digests[1], digests[0], digests[2], digests[0]))]
    request = GenerationRequest("r", (Message("user", parts),), max_tokens=2)
    with pytest.raises(PicturesNeeded) as error:
        engine.submit(request)
    assert error.value.digests == (digests[0].digest,)
    ask(engine, SCENE, "what?")
    evict(engine, features=True, blocks=True)
    *_, failed = engine.generate(request)
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, PicturesNeeded)
    assert failed.error.digests == (digests[1].digest, digests[0].digest, digests[2].digest)


def test_features_that_go_while_a_request_waits_for_them_make_it_need_the_picture(
    tiny_bundle_edge: Path, kernel_library: KernelLibrary
) -> None:
    engine = engine_of(tiny_bundle_edge, kernel_library)
    ask(engine, SCENE, "what?")
    parts = [TextPart("a long question, which takes some chunks. " * 20), ImagePart(PictureDigest.of(SCENE))]
    engine.submit(GenerationRequest("r", (Message("user", parts),), max_tokens=2))
    engine.step()  # it is admitted: all is there
    evict(engine, features=True, blocks=False)
    events = []
    while engine.has_work:
        events += engine.step()
    assert isinstance(events[-1].error, PicturesNeeded)
    assert engine._runner.kv_cache.free_tokens == engine._runner.kv_cache.max_tokens


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
