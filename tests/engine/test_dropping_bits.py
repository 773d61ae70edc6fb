"""Dropping on real (tiny) bundles of both flavours: rows that stay are the same rows, and nothing else is run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from edge_kernels.library import KernelLibrary
from edge_runtime.devices.profile import KVDtype
from edge_runtime.engine.bundle_runner import BundleRunner
from edge_runtime.engine.dropping import drop
from edge_runtime.engine.engine import Engine
from edge_runtime.engine.events import Failed, Finished
from edge_runtime.engine.model_runner import Step
from edge_runtime.engine.request import GenerationRequest
from edge_runtime.engine.token_log import TokenLog
from edge_runtime.model.contiguous_kv_cache import ContiguousLease
from edge_runtime.model.conversation import ImagePart, Message, TextPart, VideoPart
from edge_runtime.model.decoder import Logits, PortableDecoder
from edge_runtime.model.graph import Array
from edge_runtime.model.kv_cache import KVLease
from edge_runtime.model.paged_kv_cache import PagedLease
from edge_runtime.model.ragged_decoder import RaggedDecoder
from tests.engine.test_reuse_bits import SCREENS
from tests.engine.tiny_engine import engine_of

NEXT = Message("user", "and what now?")


def ask(engine: Engine, messages: tuple[Message, ...]) -> Finished:
    for event in engine.generate(GenerationRequest("r", messages, max_tokens=6)):
        assert not isinstance(event, Failed), event
        if isinstance(event, Finished):
            return event
    raise AssertionError


def said(engine: Engine) -> tuple[tuple[Message, ...], Finished]:
    """A video, two screens and their answers; the last answer."""
    messages: tuple[Message, ...] = (Message("system", "you are an agent " * 3),)
    frames = tuple(np.full((64, 64, 3), 40 * shade, dtype=np.uint8) for shade in range(4))
    media = (VideoPart(frames, (0.0, 1.0, 2.0, 3.0)), ImagePart(SCREENS[0]), ImagePart(SCREENS[1]))
    for turn, part in enumerate(media):
        messages = (
            *messages,
            Message("user", [TextPart("look at this"), part, TextPart(f"what now, in turn {turn}?")]),
        )
        answer = ask(engine, messages)
        messages = (*messages, Message("assistant", answer.text))
    return messages, answer


def log_of(engine: Engine, messages: tuple[Message, ...]) -> TokenLog:
    assert isinstance(engine._runner, BundleRunner)
    return engine._runner.prepare(GenerationRequest("r", messages, max_tokens=6))


def rows_in(engine: Engine, lease: KVLease) -> list[Array]:
    """[lease.length, num_heads, ...] of every layer and kind."""
    decoder = engine._runner._decoder  # type: ignore[attr-defined]
    if isinstance(decoder, PortableDecoder):
        assert isinstance(lease, ContiguousLease)
        blocks = list(lease.buffers.memory.arrays.values())
    else:
        assert isinstance(decoder, RaggedDecoder)
        assert isinstance(lease, PagedLease)
        blocks = [array[lease.block_ids] for array in decoder.memory.arrays.values()]
    flat = [np.moveaxis(array, 1, 2).reshape(-1, array.shape[1], *array.shape[3:]) for array in blocks]
    return [array[: lease.length].copy() for array in flat]


def found(engine: Engine, log: TokenLog) -> list[Array]:
    """What is in the cache for `log`."""
    cache = engine._runner.kv_cache
    keys = log.keys(cache.block_size, (log.num_prompt - 1) // cache.block_size)
    lease = cache.lease(log.num_prompt + 6, keys, log.sources(cache.block_size))
    assert lease is not None
    rows = rows_in(engine, lease)
    lease.free()
    return rows


def engine_for(flavour: str, folder: tuple[Path, Path], kernels: KernelLibrary, **settings: int) -> Engine:
    kv_dtype: KVDtype = "int8" if flavour == "edge int8" else "fp32"
    bundle = folder[0] if flavour == "portable" else folder[1]
    return engine_of(bundle, None if flavour == "portable" else kernels, kv_dtype, **settings)


FLAVOURS = pytest.mark.parametrize("flavour", ["portable", "edge fp32", "edge int8"])


@pytest.fixture
def bundles(tiny_bundle: Path, tiny_bundle_edge: Path) -> tuple[Path, Path]:
    return tiny_bundle, tiny_bundle_edge


@FLAVOURS
def test_rows_that_stay_are_those_before_and_nothing_else_is_computed(
    flavour: str, bundles: tuple[Path, Path], kernel_library: KernelLibrary
) -> None:
    engine = engine_for(flavour, bundles, kernel_library)
    messages, answer = said(engine)
    whole = log_of(engine, (*messages, NEXT))
    before = found(engine, whole)
    marked = messages
    for num_kept in (2, 1, 0):
        marked = drop(marked, num_kept, approximate=True)
        log = log_of(engine, (*marked, NEXT))
        kept = np.setdiff1d(
            np.arange(len(whole)),
            [i for media in whole.media[: -num_kept or None] for i in range(media.span.start, media.span.stop)],
        )
        assert log.input_ids.tolist() == whole.input_ids[kept].tolist()
        assert np.array_equal(log.position_ids(0, len(log)), whole.position_ids(0, len(whole))[:, kept])
        assert np.array_equal(log.position_ids(len(log), len(log) + 9), whole.position_ids(len(whole), len(whole) + 9))
        rows = found(engine, log)
        stayed = kept[kept < len(before[0])]
        for one, other in zip(rows, before, strict=True):
            assert np.array_equal(one[: len(stayed)], other[stayed])
        after = ask(engine, (*marked, NEXT))
        num_new = len(whole) - answer.timings.prompt_tokens - answer.timings.output_tokens + 1
        assert after.timings.computed_tokens <= num_new + engine._runner.kv_cache.block_size
        assert after.timings.prompt_tokens == len(kept)
        assert after.timings.vision_ms == 0
    assert engine._runner.kv_cache.free_tokens == engine._runner.kv_cache.max_tokens


@FLAVOURS
def test_what_is_no_more_in_the_cache_is_computed_with_its_gaps(
    flavour: str, bundles: tuple[Path, Path], kernel_library: KernelLibrary
) -> None:
    """Then nothing that was computed with the images in view is left, and their vision does not run."""
    messages, _ = said(engine_for(flavour, bundles, kernel_library))
    engine = engine_for(flavour, bundles, kernel_library)
    first = ask(engine, (*drop(messages, 0, approximate=True), NEXT))
    assert (first.timings.cached_tokens, first.timings.vision_ms, first.timings.decode_image_ms) == (0, 0, 0)
    assert (first.timings.image_tokens, first.images) == (0, ())
    exact = ask(engine, (*drop(messages, 0, approximate=False), NEXT))
    again = ask(engine, (*drop(messages, 0, approximate=True), NEXT))
    assert exact.timings.cached_tokens <= engine._runner.kv_cache.block_size
    assert again.token_ids == first.token_ids


def test_portable_moves_rows_where_there_is_no_room_for_both(
    bundles: tuple[Path, Path], kernel_library: KernelLibrary
) -> None:
    roomy = engine_for("portable", bundles, kernel_library)
    messages, answer = said(roomy)
    marked = drop(messages, 1, approximate=True)
    expected = ask(roomy, (*marked, NEXT))
    room = answer.timings.prompt_tokens + 40
    engine = engine_for("portable", bundles, kernel_library, cache_tokens=room)
    assert said(engine)[0] == messages or said(engine)[0][-1].content[0].text == messages[-1].content[0].text  # type: ignore[union-attr]
    tight = ask(engine, (*marked, NEXT))
    assert tight.token_ids == expected.token_ids
    assert tight.timings.cached_tokens == expected.timings.cached_tokens > 0


def test_a_dropped_image_needs_no_room_in_the_context(
    bundles: tuple[Path, Path], kernel_library: KernelLibrary
) -> None:
    """What has left does not count: not as an image, not as text."""
    engine = engine_for("edge fp32", bundles, kernel_library)
    screen = np.zeros((640, 640, 3), dtype=np.uint8)
    messages = tuple(Message("user", [ImagePart(screen), TextPart(str(number))]) for number in range(7))
    num_tokens = len(log_of(engine, messages[:1]))
    assert num_tokens * 7 > 2048 > num_tokens * 2
    assert ask(engine, drop(messages, 1, approximate=True)).timings.prompt_tokens < 2 * num_tokens


def think(engine: Engine, messages: tuple[Message, ...], drawn: list[int]) -> Finished:
    """The answer in which `drawn` comes, and then the end."""
    runner = engine._runner
    forward, left = runner.forward, iter([*drawn, max(runner.eos_token_ids)])

    def forced(steps: Sequence[Step]) -> list[Logits | None]:
        results = forward(steps)
        if results[0] is None:
            return results
        row = np.zeros((1, results[0].rows.shape[1]), dtype=np.float32)
        row[0, next(left)] = 1
        return [Logits(row)]

    runner.forward = forced  # type: ignore[method-assign]
    try:
        request = GenerationRequest("r", messages, max_tokens=500, enable_thinking=True, speculation=False)
        *_, last = engine.generate(request)
    finally:
        runner.forward = forward  # type: ignore[method-assign]
    assert isinstance(last, Finished), last
    return last


@FLAVOURS
def test_a_thought_leaves_and_what_was_said_behind_it_stays(
    flavour: str, bundles: tuple[Path, Path], kernel_library: KernelLibrary
) -> None:
    engine = engine_for(flavour, bundles, kernel_library)
    runner = engine._runner
    assert isinstance(runner, BundleRunner)
    assert runner.think_token_ids is not None
    write = runner._tokenizer.encode
    block_size = runner.kv_cache.block_size
    asked: tuple[Message, ...] = (Message("user", [ImagePart(SCREENS[0]), TextPart("what is it?")]),)
    for turn in range(2):
        thought, said_ids = (
            write(text * 40, {}, add_special_tokens=False).tolist() for text in (f" hm{turn}", f" it{turn}")
        )
        newlines = write("\n\n", {}, add_special_tokens=False).tolist()
        answer = think(engine, asked, [*thought, runner.think_token_ids[1], *newlines, *said_ids])
        assert answer.reasoning
        assert answer.text == f" it{turn}" * 40
        past = (*asked, Message("assistant", answer.text, 0))
        dropped = drop(past, None, reasoning=True, approximate=True)
        assert drop(past, None, reasoning=True) == past
        assert [message.dropped for message in dropped if message.role == "assistant"] == list(range(1, turn + 2))
        log, exact = log_of(engine, (*dropped, NEXT)), log_of(engine, (*past, NEXT))
        assert exact.input_ids.tolist() == [*log.input_ids] or turn  # what is left says what the template says
        assert log.rope_delta - log_of(engine, (*asked, NEXT)).rope_delta >= len(thought)
        num_new = log.num_prompt - (answer.timings.prompt_tokens + answer.timings.output_tokens - len(thought)) + 4
        rows = found(engine, log)
        assert len(rows[0]) >= log.num_prompt - num_new - block_size
        behind = log.num_prompt - len(write("and what now?", {}, add_special_tokens=False)) - len(said_ids)
        assert len(rows[0]) > behind  # not only what comes before the answer
        asked = (*dropped, NEXT)
    prompt = runner.prepare(GenerationRequest("r", asked))
    assert len(runner.answers.spans(prompt.short_ids)) == 2  # for who saves them
    fresh = engine_for(flavour, bundles, kernel_library)  # which has never drawn it
    plain = tuple(Message(message.role, message.content) for message in asked)
    assert log_of(fresh, asked).input_ids.tolist() == log_of(fresh, plain).input_ids.tolist()


def test_only_a_thought_that_was_drawn_is_put_back(bundles: tuple[Path, Path], kernel_library: KernelLibrary) -> None:
    """What a text says about thoughts is text, whatever the marks."""
    engine = engine_for("edge fp32", bundles, kernel_library)
    first = Message("user", "hi")
    spelled = Message("assistant", "<think>\nsecret</think>\n\nhello", 1)
    log, unmarked = (log_of(engine, (first, said, NEXT)) for said in (spelled, Message("assistant", spelled.content)))
    assert log.input_ids.tolist() == unmarked.input_ids.tolist()
    assert log.rope_delta == unmarked.rope_delta == 0
