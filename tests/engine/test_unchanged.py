"""An image that a session shows last already is left out, and what is asked is asked about that (decision 72)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_kernels.library import KernelLibrary
from edge_runtime.engine.dropping import drop
from edge_runtime.engine.engine import Engine
from edge_runtime.engine.events import Failed, Finished
from edge_runtime.engine.request import GenerationRequest, SessionTurn
from edge_runtime.engine.session import Sessions
from edge_runtime.engine.session_files import SessionFiles
from edge_runtime.errors import PicturesNeeded, SmallImageWarning
from edge_runtime.model.cancellation import CancelToken
from edge_runtime.model.conversation import ImagePart, Message, PictureDigest, VideoPart
from tests.engine.tiny_engine import CHUNK, engine_of

RNG = np.random.default_rng(4)
ONE, TWO = (RNG.integers(0, 256, (96, 160, 3), dtype=np.uint8) for _ in range(2))
PNG = cv2.imencode(".png", ONE)[1].tobytes()


def user(*parts: object) -> Message:
    return Message("user", list(parts))  # type: ignore[arg-type]


def left_out(past: Sequence[Message], *new: Message, turn: int | None = None) -> tuple[int, list[int]]:
    """How many images a session with that past leaves out, and how many parts each new message has then."""
    sessions = Sessions()
    session_id = sessions.open(past).session_id
    request = GenerationRequest("r", new, session=SessionTurn(session_id, turn, skip_unchanged=True))
    begun = sessions.begin(request, CancelToken())
    assert len(begun.messages) >= len(new)
    return begun.num_unchanged, [len(message.content) for message in begun.messages[-len(new) :]]


PAST = (
    user(ImagePart(TWO), "first"),
    Message("assistant", "a"),
    user(ImagePart(ONE), "next"),
    Message("assistant", "b"),
)


def test_the_picture_that_is_shown_last_is_left_out() -> None:
    assert left_out(PAST, user(ImagePart(ONE.copy()), "?")) == (1, [1])
    assert left_out(PAST, user(ImagePart(TWO), "?")) == (0, [2])
    assert left_out((), user(ImagePart(ONE), "?")) == (0, [2])
    assert left_out(PAST, user(ImagePart(ONE), ImagePart(ONE), "?")) == (2, [1])
    assert left_out(PAST, user("look", ImagePart(ONE), "?"), Message("assistant", "x"), user(ImagePart(ONE), "?")) == (
        2,
        [2, 1, 1],
    )


def test_one_that_is_shown_after_another_stays() -> None:
    """Its place says when it was seen."""
    assert left_out(PAST, user(ImagePart(TWO), ImagePart(ONE), "?")) == (0, [3])
    assert left_out(PAST, user(ImagePart(ONE), ImagePart(TWO), ImagePart(ONE), "?")) == (1, [3])
    assert left_out(PAST, user(ImagePart(TWO), ImagePart(TWO), "?")) == (0, [3])
    video = user(VideoPart((TWO, TWO), (0.0, 0.5)), "and?")
    assert left_out((*PAST, video, Message("assistant", "c")), user(ImagePart(ONE), "?")) == (0, [2])
    assert left_out(PAST, user(VideoPart((ONE, ONE), (0.0, 0.5)), "?")) == (0, [2])


def test_equal_is_equal_to_the_last_byte_with_the_same_limits() -> None:
    one_off = ONE.copy()
    one_off[-1, -1, -1] ^= 1
    for other in (one_off, ONE[:-1], ONE.reshape(160, 96, 3), ONE.astype(np.int16), PNG):
        assert left_out(PAST, user(ImagePart(other), "?")) == (0, [2])  # type: ignore[arg-type]
    assert left_out(PAST, user(ImagePart(ONE, min_pixels=4096), "?")) == (0, [2])
    assert left_out(PAST, user(ImagePart(ONE, max_pixels=65536), "?")) == (0, [2])
    past = (user(ImagePart(PNG, 4096, 65536), "x"), Message("assistant", "a"))
    assert left_out(past, user(ImagePart(bytes(bytearray(PNG)), 4096, 65536), "?")) == (1, [1])
    assert left_out(past, user(ImagePart(PNG), "?")) == (0, [2])


def test_a_digest_stands_for_its_picture() -> None:
    assert left_out(PAST, user(ImagePart(PictureDigest.of(ONE)), "?")) == (1, [1])
    with pytest.raises(PicturesNeeded):
        left_out(PAST, user(ImagePart(PictureDigest.of(TWO)), "?"))
    with pytest.raises(PicturesNeeded):
        left_out(PAST, user(ImagePart(PictureDigest.of(ONE), min_pixels=4096), "?"))


@pytest.mark.parametrize("words", [(), ("",), (" ", "\n")])
def test_a_message_that_would_say_nothing_keeps_its_picture(words: tuple[str, ...]) -> None:
    assert left_out(PAST, user(ImagePart(ONE), *words)) == (0, [1 + len(words)])


@pytest.mark.parametrize("approximate", [False, True])
def test_what_was_dropped_is_not_there(approximate: bool) -> None:
    assert left_out(drop(PAST, 0, approximate=approximate), user(ImagePart(ONE), "?")) == (0, [2])
    assert left_out(drop(PAST, 1, approximate=approximate), user(ImagePart(ONE), "?")) == (1, [1])


def test_an_edit_compares_with_what_is_before_its_turn() -> None:
    assert left_out(PAST, user(ImagePart(ONE), "?"), turn=1) == (0, [2])
    assert left_out(PAST, user(ImagePart(TWO), "?"), turn=1) == (1, [1])
    assert left_out(PAST, user(ImagePart(TWO), "?"), turn=0) == (0, [2])


@pytest.fixture(params=["portable", "edge"])
def fresh(request: pytest.FixtureRequest, tiny_bundle: Path) -> Callable[[], Engine]:
    """Makes engines that know nothing."""
    if request.param == "portable":
        return lambda: engine_of(tiny_bundle, None)
    edge: Path = request.getfixturevalue("tiny_bundle_edge")
    kernels: KernelLibrary = request.getfixturevalue("kernel_library")
    return lambda: engine_of(edge, kernels)


def ask(engine: Engine, session_id: str, *parts: object) -> Finished:
    messages = (user(*parts),) if parts else ()
    place = SessionTurn(session_id, skip_unchanged=True)
    for event in engine.generate(GenerationRequest("r", messages, session=place, max_tokens=6)):
        assert not isinstance(event, Failed), event
        if isinstance(event, Finished):
            return event
    raise AssertionError


def test_a_turn_with_an_unchanged_screen_is_one_without_a_screen(fresh: Callable[[], Engine]) -> None:
    """The same prompt and answer, and no more computed; its coordinates are those of the screen that is there."""
    answers = []
    for picture in ((ImagePart(ONE),), ()):
        engine = fresh()
        session = engine.sessions.open((Message("system", "be brief"),)).session_id
        first = ask(engine, session, ImagePart(ONE), "what is this?")
        answers.append(ask(engine, session, *picture, "and this?"))
        assert ask(engine, session).token_ids == answers[-1].token_ids  # the same question anew
        state = engine.sessions.state(session)
        assert (state.num_turns, state.num_messages) == (2, 5)
    skipped, without = answers
    assert (skipped.token_ids, skipped.images) == (without.token_ids, without.images)
    counts = [
        (one.timings.prompt_tokens, one.timings.image_tokens, one.timings.cached_tokens, one.timings.computed_tokens)
        for one in answers
    ]
    assert counts[0] == counts[1]
    assert [one.timings.unchanged_images for one in answers] == [1, 0]
    own = skipped.timings.prompt_tokens - first.timings.prompt_tokens
    block_size = engine._runner.kv_cache.block_size
    assert skipped.timings.computed_tokens <= own + (CHUNK if block_size == CHUNK else 0)
    with pytest.warns(SmallImageWarning):
        assert skipped.to_pixels((1000, 1000)) == (159, 95)


def test_a_restored_session_leaves_out_what_it_shows_last(fresh: Callable[[], Engine], tmp_path: Path) -> None:
    engine = fresh()
    session = engine.sessions.open().session_id
    ask(engine, session, ImagePart(PNG), "what is this?")
    ask(engine, session, ImagePart(PNG), "and this?")
    SessionFiles(engine.saving).save(session, tmp_path / "chat")
    unbroken = ask(engine, session, ImagePart(PNG), "and now?")
    other = fresh()
    restored = SessionFiles(other.saving).restore(tmp_path / "chat").session_id
    answer = ask(other, restored, ImagePart(PNG), "and now?")
    assert answer.token_ids == unbroken.token_ids
    assert answer.timings.cached_tokens == unbroken.timings.cached_tokens
    assert answer.timings.unchanged_images == unbroken.timings.unchanged_images == 1
    assert len(answer.images) == 1
    assert ask(other, restored, ImagePart(ONE), "and as pixels?").timings.unchanged_images == 0
