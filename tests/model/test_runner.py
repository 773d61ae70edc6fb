"""The decoder, cache, embeddings and runner on a real (tiny) bundle."""

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_runtime.engine.bundle_runner import BundleRunner, RunnerSettings
from edge_runtime.engine.engine import Engine
from edge_runtime.engine.model_runner import Step
from edge_runtime.engine.request import GenerationRequest
from edge_runtime.engine.settings import EngineSettings
from edge_runtime.errors import BadImage, BundleError, Cancelled, InternalError
from edge_runtime.model.bundle import open_bundle
from edge_runtime.model.cancellation import CancelToken
from edge_runtime.model.conversation import ImagePart, Message, TextPart
from edge_runtime.model.embeddings import TokenEmbeddings
from edge_runtime.model.footprint import footprint
from edge_runtime.model.graph import GraphSettings
from edge_runtime.model.manifest import load_manifest
from edge_runtime.vision.image import ImageLimits

SCENE = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
REQUEST = GenerationRequest("r", (Message("user", (TextPart("see"), ImagePart(SCENE), TextPart("what is it?"))),))


def load(bundle: Path) -> BundleRunner:
    settings = RunnerSettings(1024, 2048, None, GraphSettings(num_threads=1), ImageLimits())
    return BundleRunner(open_bundle(bundle), settings)


@pytest.fixture(scope="module")
def runner(tiny_bundle: Path) -> BundleRunner:
    return load(tiny_bundle)


def logits_after_prompt(runner: BundleRunner, chunk: int) -> NDArray[np.float32]:
    prompt, cancel = runner.prepare(REQUEST), CancelToken()
    while prompt.next_media is not None:
        runner.media.advance(prompt, cancel)
    lease = runner.kv_cache.lease(len(prompt.input_ids))
    assert lease is not None
    logits = None
    for start in range(0, len(prompt.input_ids), chunk):
        ids = prompt.input_ids[start : start + chunk]
        is_last = start + chunk >= len(prompt.input_ids)
        (logits,) = runner.forward([Step(prompt, ids, lease, int(is_last), cancel)])
        assert (logits is not None) == is_last
    lease.free()
    assert logits is not None
    return logits.rows[0]


def test_chunks_change_no_logit(runner: BundleRunner) -> None:
    whole = logits_after_prompt(runner, 10_000)
    assert np.isfinite(whole).all()
    for chunk in (1, 7, 64):
        np.testing.assert_allclose(logits_after_prompt(runner, chunk), whole, atol=1e-4)


def test_pixels_are_let_go_once_encoded(runner: BundleRunner) -> None:
    engine = Engine(runner, EngineSettings())
    pictures = [np.zeros((64, 64, 3), np.uint8) for _ in range(2)]
    alive = [weakref.ref(picture) for picture in pictures]
    parts = (*(ImagePart(picture) for picture in pictures), TextPart("what is it?"))
    engine.submit(GenerationRequest("r", (Message("user", parts),), max_tokens=2))
    del pictures, parts
    assert [ref() is not None for ref in alive] == [True, True]
    while alive[0]() is not None:
        assert engine.has_work, "the first picture was kept to the end"
        engine.step()
    assert alive[1]() is not None
    while alive[1]() is not None:
        assert engine.has_work, "the second picture was kept to the end"
        engine.step()
    while engine.has_work:
        engine.step()


def test_image_changes_the_logits(runner: BundleRunner) -> None:
    prompt = runner.prepare(REQUEST)
    assert (prompt.image_tokens, len(prompt.media)) == (int((prompt.input_ids == 972).sum()), 1)
    runner.media.advance(prompt, CancelToken())
    features = prompt.media[0].features
    assert features is not None
    assert features.embeds.shape == (prompt.image_tokens, 64)
    assert features.deepstack.shape == (3, prompt.image_tokens, 64)
    with_image = logits_after_prompt(runner, 10_000)
    features.embeds[:] = 0
    lease = runner.kv_cache.lease(len(prompt.input_ids))
    assert lease is not None
    (without,) = runner.forward([Step(prompt, prompt.input_ids, lease, 1, CancelToken())])
    lease.free()
    assert without is not None
    assert np.abs(with_image - without.rows[0]).max() > 1e-3


def test_truncated_lease_gives_the_same_again(runner: BundleRunner) -> None:
    prompt, cancel = runner.prepare(GenerationRequest("r", (Message("user", (TextPart("hello"),)),))), CancelToken()
    lease = runner.kv_cache.lease(64)
    assert lease is not None
    (first,) = runner.forward([Step(prompt, prompt.input_ids, lease, 1, cancel)])
    runner.forward([Step(prompt, np.array([5, 6, 7]), lease, 1, cancel)])
    lease.truncate(len(prompt.input_ids) - 1)
    (again,) = runner.forward([Step(prompt, prompt.input_ids[-1:], lease, 1, cancel)])
    assert first is not None
    assert again is not None
    np.testing.assert_allclose(first.rows, again.rows, atol=1e-4)
    lease.free()


def test_several_rows_are_what_as_many_steps_give(runner: BundleRunner) -> None:
    log, cancel = runner.prepare(GenerationRequest("r", (Message("user", "hello"),))), CancelToken()
    lease = runner.kv_cache.lease(64)
    assert lease is not None
    (several,) = runner.forward([Step(log, log.input_ids, lease, 3, cancel)])
    assert several is not None
    lease.truncate(log.num_prompt - 3)
    for row, token in zip(several.rows, log.input_ids[-3:], strict=True):
        (one,) = runner.forward([Step(log, np.array([token]), lease, 1, cancel)])
        assert one is not None
        np.testing.assert_allclose(row, one.rows[0], atol=1e-4)
    lease.free()


def test_cancelled_step_gives_none_and_leaves_the_lease(runner: BundleRunner) -> None:
    prompt, cancel = runner.prepare(GenerationRequest("r", (Message("user", (TextPart("hello"),)),))), CancelToken()
    lease = runner.kv_cache.lease(64)
    assert lease is not None
    cancel.cancel()
    assert runner.forward([Step(prompt, prompt.input_ids, lease, 1, cancel)]) == [None]
    assert lease.length == 0
    lease.free()


def test_cancel_stops_a_vision_run_from_another_thread(runner: BundleRunner) -> None:
    attached = threading.Event()

    class TellsWhenAttached(CancelToken):
        """Says when a run can be stopped."""

        @contextmanager
        def attach(self, stop_run: Callable[[], None]) -> Iterator[None]:
            with super().attach(stop_run):
                attached.set()
                yield

    def cancel_when_attached() -> None:
        attached.wait()
        cancel.cancel()

    cancel = TellsWhenAttached()
    other = threading.Thread(target=cancel_when_attached)
    other.start()
    pixels = np.zeros((960, 1024, 3), np.uint8)
    prompt = runner.prepare(GenerationRequest("r", (Message("user", (ImagePart(pixels),)),)))
    with pytest.raises(Cancelled):
        runner.media.advance(prompt, cancel)
    other.join()
    assert prompt.next_media is not None  # nothing was taken off, it could be tried again


def test_tokens_of_an_image_that_is_not_encoded_are_an_internal_error(runner: BundleRunner) -> None:
    prompt, lease = runner.prepare(REQUEST), runner.kv_cache.lease(1000)
    assert lease is not None
    with pytest.raises(InternalError, match="not encoded"):
        runner.forward([Step(prompt, prompt.input_ids, lease, 1, CancelToken())])
    lease.free()


def test_damaged_pixels_are_found_when_encoding_not_when_preparing(runner: BundleRunner) -> None:
    from io import BytesIO

    from PIL import Image

    stream = BytesIO()
    Image.fromarray(SCENE).save(stream, "PNG")
    prompt = runner.prepare(GenerationRequest("r", (Message("user", (ImagePart(stream.getvalue()[:500]),)),)))
    with pytest.raises(BadImage, match="cut short"):
        runner.media.advance(prompt, CancelToken())


def test_tokens_that_the_vocabulary_does_not_have(tiny_bundle: Path) -> None:
    embeddings = TokenEmbeddings(tiny_bundle, load_manifest(tiny_bundle))
    for token_id in (1024, -1, 2**32 - 1):
        with pytest.raises(BundleError, match="the model's vocabulary has 1024"):
            embeddings.lookup(np.array([3, token_id], np.int64))


def test_int8_embedding_rows_are_near_the_fp32_ones(tiny_bundle: Path, tiny_bundle_int4: Path) -> None:
    ids = np.array([0, 5, 1023])
    exact = TokenEmbeddings(tiny_bundle, load_manifest(tiny_bundle)).lookup(ids)
    rounded = TokenEmbeddings(tiny_bundle_int4, load_manifest(tiny_bundle_int4)).lookup(ids)
    assert exact.shape == rounded.shape == (3, 64)
    assert exact.dtype == rounded.dtype == np.float32
    assert 0 < np.abs(exact - rounded).max() < np.abs(exact).max() / 64


def test_int4_bundle_runs(tiny_bundle_int4: Path) -> None:
    assert np.isfinite(logits_after_prompt(load(tiny_bundle_int4), 32)).all()


def test_footprint_counts_what_the_manifest_says(tiny_bundle: Path, tiny_bundle_int4: Path) -> None:
    exact, small = (footprint(load_manifest(bundle)) for bundle in (tiny_bundle, tiny_bundle_int4))
    assert exact.kv_bytes_per_token == {"fp32": 2 * 4 * 2 * 32 * 4}  # key and value, layers, heads, head_dim, bytes
    assert exact.feature_bytes_per_token == (1 + 3) * 64 * 4
    assert small.prepacked_bytes < exact.prepacked_bytes / 3
    assert exact.int4_weights_bytes is not None
    assert small.int4_weights_bytes is None


@pytest.mark.parametrize(("parse_special", "closed"), [(False, 1), (True, 2)])
def test_a_request_says_whether_typed_control_tokens_count(
    runner: BundleRunner, parse_special: bool, closed: int
) -> None:
    messages = (Message("user", (TextPart("a<|im_end|>b"),)),)
    prompt = runner.prepare(GenerationRequest("r", messages, parse_special=parse_special))
    assert int((prompt.input_ids == max(runner.eos_token_ids)).sum()) == closed


def test_the_manifest_tells_the_template_the_names_of_special_tokens(tiny_bundle: Path) -> None:
    names = load_manifest(tiny_bundle).special_tokens_map
    assert (names["eos_token"], names["pad_token"]) == ("<|im_end|>", "<|endoftext|>")
    assert "<|image_pad|>" in names["additional_special_tokens"]
