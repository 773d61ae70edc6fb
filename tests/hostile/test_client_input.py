"""Whatever a program hands to the clients is converted or refused with an `EdgeError`, before anything is sent."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from edge_runtime.engine.request import GenerationOptions
from edge_runtime.errors import BadParameter, BadPrompt, EdgeError
from edge_runtime.model.conversation import ImagePart, Message, TextPart, VideoPart
from edge_runtime.serving.chat import messages_of
from edge_runtime.serving.conversion import outgoing_request
from edge_runtime.serving.images import question

TEXT = st.text(st.characters(), max_size=6)  # halves of characters among them
WORDS = st.sampled_from(
    [
        "user",
        "system",
        "text",
        "image",
        "image_url",
        "input_image",
        "video",
        "role",
        "content",
        "type",
        "url",
        "fps",
        "timestamps_s",
        "detail",
        "auto",
        "x\x00",
        "data:,x",
        "data:image/png;base64,eA==",
        "data:;base64,=",
        "http://x",
        "file:///x",
    ]
)
ARRAYS = arrays.arrays(
    st.sampled_from([np.uint8, np.float32, np.bool_, np.dtype("U1"), object]),
    arrays.array_shapes(max_dims=4, max_side=4),
)
ODDITIES = st.sampled_from(
    [Image.new("RGBA", (2, 3)), Image.new("L", (0, 3)), object(), int, {1, 2}, range(2), np.float32(1), 2**31, 10**400]
)
NUMBERS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.complex_numbers())
SCALARS = st.one_of(NUMBERS, TEXT, WORDS, st.binary(max_size=6), ARRAYS, ODDITIES)
KEYS = st.one_of(WORDS, st.integers(), st.none())


def nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.lists(inner, max_size=3), st.lists(inner, max_size=3).map(tuple), st.dictionaries(KEYS, inner))


ANYTHING = st.recursive(SCALARS, nested, max_leaves=8)
FIELDS = ["text", "image", "image_url", "url", "path", "video", "fps", "timestamps_s", "max_pixels", "detail"]
TYPES = st.one_of(WORDS, st.just("image"), st.just("video"), ANYTHING)
DICT_PARTS = st.fixed_dictionaries({"type": TYPES}, optional=dict.fromkeys(FIELDS, ANYTHING))
SOURCES = st.one_of(st.binary(max_size=6), ANYTHING)
FRAMES = st.one_of(st.lists(st.binary(max_size=2), max_size=2), ANYTHING)
TYPED_PARTS = st.one_of(
    st.builds(TextPart, ANYTHING), st.builds(ImagePart, SOURCES, ANYTHING), st.builds(VideoPart, FRAMES, ANYTHING)
)
ROLES = st.one_of(st.just("user"), ANYTHING)
DICTS = st.fixed_dictionaries({"role": ROLES, "content": st.one_of(st.lists(DICT_PARTS), ANYTHING)})
TYPED = st.builds(Message, ROLES, st.lists(TYPED_PARTS, max_size=3))
CHATS = st.one_of(ANYTHING, st.lists(st.one_of(DICTS, TYPED, ANYTHING), max_size=3))


@settings(max_examples=400, deadline=None)
@given(CHATS)
def test_any_chat_is_converted_or_refused(chat: Any) -> None:
    try:
        frames = outgoing_request("1", chat, GenerationOptions()).whole()
    except EdgeError as error:
        assert str(error)
        return
    assert msgspec.msgpack.decode(frames[0])["messages"]
    assert all(isinstance(frame, bytes) for frame in frames)


@settings(max_examples=200, deadline=None)
@given(ANYTHING, ANYTHING, ANYTHING)
def test_any_question_and_stop_strings_are_converted_or_refused(prompt: Any, images: Any, stop: Any) -> None:
    check(lambda: messages_of(question(prompt, images, system=stop)))
    check(lambda: GenerationOptions(stop=stop).stop)


def check(convert: Callable[[], tuple[Any, ...]]) -> None:
    try:
        assert isinstance(convert(), tuple)
    except EdgeError as error:
        assert str(error)


def test_an_open_file_is_no_list_of_pictures() -> None:
    with pytest.raises(BadParameter, match="images is of type BytesIO"):
        question("what is it?", io.BytesIO(b"line\nline\n"))  # type: ignore[arg-type]


def test_a_text_that_no_server_takes_is_refused_before_it_is_sent() -> None:
    with pytest.raises(BadPrompt, match=r"takes 45\d{5} bytes; a server takes 4194304"):
        outgoing_request("1", "word " * 900_000, GenerationOptions())
