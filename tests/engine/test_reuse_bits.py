"""Reuse on real (tiny) bundles: `edge` gives the same bits, `portable` the same tokens, and computes less."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from edge_kernels.library import KernelLibrary
from edge_runtime.devices.profile import KVDtype
from edge_runtime.engine.chat import Phase
from edge_runtime.engine.engine import Engine
from edge_runtime.engine.events import Delta, Failed, Finished, TokenLogprob
from edge_runtime.engine.request import GenerationRequest
from edge_runtime.model.conversation import ImagePart, Message, TextPart
from tests.engine.tiny_engine import CHUNK, engine_of

RNG = np.random.default_rng(3)
SCREENS = [RNG.integers(0, 256, (96, 160, 3), dtype=np.uint8) for _ in range(4)]
Answer = tuple[Finished, list[TokenLogprob]]


def ask(engine: Engine, history: list[Message], salt: str = "") -> Answer:
    request = GenerationRequest("r", tuple(history), max_tokens=12, num_logprobs=2, cache_salt=salt)
    logprobs: list[TokenLogprob] = []
    for event in engine.generate(request):
        assert not isinstance(event, Failed), event
        if isinstance(event, Delta):
            logprobs += event.logprobs or ()
        else:
            return event, logprobs
    raise AssertionError


def loop(engine: Engine, num_turns: int = 4) -> list[Answer]:
    """An agent: a system prompt, then a screen and a question a turn, with all that was said before."""
    history, answers = [Message("system", "you are an agent " * 3)], []
    for turn in range(num_turns):
        screen = SCREENS[turn if turn != 2 else 1]  # the third looks like the second
        history.append(Message("user", [ImagePart(screen), TextPart(f"what now, in turn {turn}?")]))
        answers.append(ask(engine, history))
        history.append(Message("assistant", answers[-1][0].text))
    return answers


@pytest.mark.parametrize("kv_dtype", ["fp32", "fp16", "int8"])
def test_an_agents_loop_is_the_same_to_the_bit(
    tiny_bundle_edge: Path, kernel_library: KernelLibrary, kv_dtype: KVDtype
) -> None:
    with_cache = loop(engine_of(tiny_bundle_edge, kernel_library, kv_dtype))
    history = [Message("system", "you are an agent " * 3)]
    for turn, (answer, logprobs) in enumerate(with_cache):
        history.append(
            Message("user", [ImagePart(SCREENS[turn if turn != 2 else 1]), TextPart(f"what now, in turn {turn}?")])
        )
        alone, expected = ask(engine_of(tiny_bundle_edge, kernel_library, kv_dtype), history)
        assert alone.timings.cached_tokens == 0
        assert (answer.token_ids, logprobs) == (alone.token_ids, expected)
        history.append(Message("assistant", answer.text))
    timings = [answer.timings for answer, _ in with_cache]
    assert all(later.cached_tokens > earlier.cached_tokens for earlier, later in pairwise(timings))
    assert [one.vision_cached for one in timings] == [0, 1, 3, 3]  # in the third turn the new screen is an old one


def test_a_cache_with_room_for_little_changes_nothing(tiny_bundle_edge: Path, kernel_library: KernelLibrary) -> None:
    large = loop(engine_of(tiny_bundle_edge, kernel_library, "int8"))
    small = loop(
        engine_of(tiny_bundle_edge, kernel_library, "int8", cache_tokens=large[-1][0].timings.prompt_tokens + 40)
    )
    for (answer, logprobs), (other, expected) in zip(small, large, strict=True):
        assert (answer.token_ids, logprobs) == (other.token_ids, expected)


def test_another_salt_finds_nothing_and_answers_the_same(tiny_bundle_edge: Path, kernel_library: KernelLibrary) -> None:
    """Not keys and values, not features, not a decoded picture; and with the same salt all of them."""
    engine = engine_of(tiny_bundle_edge, kernel_library)
    history = [Message("user", [TextPart("look " * 40), ImagePart(SCREENS[0]), TextPart("what is it? " * 20)])]
    elsewhere = [Message("user", [TextPart("another place"), ImagePart(SCREENS[0]), TextPart("what is it?")])]
    alone = ask(engine, history)
    for salt in ("", "gateway/7"):
        first, again = (ask(engine, history, "gateway/7"), ask(engine, history, salt))
        assert (first[0].token_ids, first[1]) == (again[0].token_ids, again[1]) == (alone[0].token_ids, alone[1])
        if not salt:
            assert (first[0].timings.cached_tokens, first[0].timings.vision_cached) == (0, 0)
            assert first[0].timings.computed_tokens == first[0].timings.prompt_tokens
        assert again[0].timings.cached_tokens == again[0].timings.prompt_tokens - 1
        assert again[0].timings.vision_cached == 1
    found = [ask(engine, elsewhere, salt)[0].timings.vision_cached for salt in ("", "gateway/7", "gateway/8")]
    assert found == [1, 1, 0]


def test_portable_takes_over_the_buffers_of_the_last_turn(tiny_bundle: Path) -> None:
    history = [Message("user", [ImagePart(SCREENS[0]), TextPart("what is it? " * 20)])]
    engine = engine_of(tiny_bundle, None)
    first, logprobs = ask(engine, history)
    again, expected = ask(engine, history)
    assert first.timings.cached_tokens == 0
    assert again.timings.cached_tokens == (first.timings.prompt_tokens - 1) // CHUNK * CHUNK
    assert again.timings.vision_cached == 1
    assert (again.token_ids, expected) == (first.token_ids, logprobs)  # cut alike, so not even a rounding differs


def test_smaller_chunks_beside_a_chat_that_decodes_change_no_bit(
    tiny_bundle_edge: Path, kernel_library: KernelLibrary
) -> None:
    history = [Message("user", [ImagePart(SCREENS[0]), TextPart("what is it? " * 20), ImagePart(SCREENS[1])])]
    alone, expected = ask(engine_of(tiny_bundle_edge, kernel_library, "int8"), history)
    engine = engine_of(tiny_bundle_edge, kernel_library, "int8", shared_chunk=7)
    engine.submit(GenerationRequest("talks", (Message("user", "hello"),), ignore_eos=True, max_tokens=1000))
    while engine._chats["talks"].phase is not Phase.DECODE:
        engine.step()
    beside, logprobs = ask(engine, history)
    assert "talks" in engine._chats
    assert (beside.token_ids, logprobs) == (alone.token_ids, expected)
