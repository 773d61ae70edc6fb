"""The log of a chat: its tokens and where they stand, and the images that it holds for as long as they are needed."""

from __future__ import annotations

import numpy as np

from edge_runtime.engine.token_log import Media, TokenLog
from edge_runtime.families.qwen3_vl.decoder import prompt_positions
from edge_runtime.families.qwen3_vl.processor import Normalization, TokenGrid, VisionSpan
from edge_runtime.vision.encoder import VisionFeatures
from edge_runtime.vision.plan import VisionRun
from tests.engine.fake_runner import FakeEncoding, FakePixels

SPAN = VisionSpan(3, TokenGrid(2, 4))
RUN = VisionRun((b"",), 64, 128, Normalization.of((0.5,), (0.5,)))


def log_of(num_tokens: int, *media: Media) -> TokenLog:
    positions = prompt_positions(num_tokens, [one.span for one in media])
    return TokenLog(np.arange(100, 100 + num_tokens), media, positions=positions, starts_in_reasoning=False)


def test_the_answer_follows_the_prompt() -> None:
    log = log_of(5)
    for token in range(500):
        log.append(token)
    assert (len(log), log.num_prompt, log.num_output) == (505, 5, 500)
    assert log.output_ids == tuple(range(500))
    assert log.input_ids.tolist() == [100, 101, 102, 103, 104]
    assert log.ids(3, 7).tolist() == [103, 104, 0, 1]
    assert log.ids(503, 600).tolist() == [498, 499]


def test_positions_go_on_past_an_image_and_into_the_answer() -> None:
    log = log_of(14, Media(SPAN, None))
    assert log.position_ids(2, 5).tolist() == [[2, 3, 3], [2, 3, 3], [2, 3, 4]]
    # The image takes four positions, its longer side, for eight tokens.
    assert log.position_ids(11, 16).tolist() == [[7, 8, 9, 10, 11]] * 3
    assert log.position_ids(20, 22).tolist() == [[16, 17]] * 3


def test_features_are_wanted_for_the_tokens_they_stand_behind_and_dropped_after_the_last() -> None:
    first, second = (Media(VisionSpan(start, TokenGrid(2, 4)), RUN) for start in (3, 20))
    log = log_of(30, first, second)
    assert (log.image_tokens, log.next_media) == (16, first)
    assert [log.lacks_features(stop) for stop in (3, 4, 30)] == [False, True, True]
    rng = np.random.default_rng(0)
    features = VisionFeatures(rng.random((8, 4), np.float32), rng.random((2, 8, 4), np.float32))
    first.run, first.features = None, features
    assert log.next_media is second
    assert [log.lacks_features(stop) for stop in (20, 21)] == [False, True]
    log.drop_features(7, chunk=2)
    assert first.features is features
    log.drop_features(8, chunk=3)
    assert (len(first.features.embeds), first.num_dropped) == (3, 5)
    assert np.array_equal(first.features.embeds, features.embeds[5:])
    assert np.array_equal(first.features.deepstack, features.deepstack[:, 5:])
    assert not np.shares_memory(first.features.embeds, features.embeds)
    log.drop_features(11, chunk=3)
    assert first.features is None
    assert log.next_media is second


def test_media_is_ready_when_nothing_has_to_be_waited_for() -> None:
    media, pixels = Media(SPAN, None), FakePixels()
    assert media.ready
    media.pixels = pixels  # type: ignore[assignment]
    assert not media.ready
    media.encoding = FakeEncoding()  # type: ignore[assignment]
    assert media.ready
    media.encoding, pixels.ready = None, True
    assert media.ready
