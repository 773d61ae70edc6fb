"""What callers write as messages, pictures and options: converted, or refused at the client, by name."""

from __future__ import annotations

import base64
import inspect
import io
import os
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edge_runtime.engine.request import GenerationOptions, SamplingParams
from edge_runtime.errors import BadImage, BadParameter, BadPrompt, EdgeError
from edge_runtime.model.conversation import ImagePart, Message, TextPart, VideoPart
from edge_runtime.serving.async_client import AsyncClient
from edge_runtime.serving.chat import messages_of
from edge_runtime.serving.client import Client
from edge_runtime.serving.images import picture, question

Serve = Callable[..., Any]
NOBODY = "tcp://127.0.0.1:1"
"""Whatever reaches this address has not been refused at the client."""


def png(mode: str = "RGB", colour: object = (1, 2, 3)) -> bytes:
    stream = io.BytesIO()
    Image.new(mode, (4, 2), colour).save(stream, "PNG")  # type: ignore[arg-type]
    return stream.getvalue()


def data_url(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def only_image(*messages: Any) -> Any:
    (part,) = messages_of(messages)[0].content
    assert isinstance(part, ImagePart)
    return part


def test_message_takes_a_string_a_part_or_a_list() -> None:
    image = ImagePart(b"x")
    assert Message("user", "hi").content == (TextPart("hi"),)
    assert Message("user", image).content == (image,)
    assert Message("user", [image, "what?"]).content == (image, TextPart("what?"))
    assert Message("user", (TextPart("a"),)) == Message("user", "a")
    assert hash(Message("user", "a")) == hash(Message("user", [TextPart("a")]))


@pytest.mark.parametrize(
    ("content", "says"), [(5, "of type int"), (None, "None"), ([1], "part 1 .* int"), (["a", {}], "part 2 .* dict")]
)
def test_message_of_anything_else_is_refused(content: Any, says: str) -> None:
    with pytest.raises(BadPrompt, match=says):
        Message("user", content)


def test_chats_of_all_forms_are_the_same() -> None:
    wanted = (Message("user", "hi"),)
    said = {"role": "user", "content": "hi"}
    listed = {"role": "user", "content": [{"type": "text", "text": "hi"}]}
    for chat in ("hi", wanted[0], [wanted[0]], wanted, said, [said], (listed,), ["hi"]):
        assert messages_of(chat) == wanted
    assert messages_of([{"role": "user", "content": "hi", "name": None}]) == wanted


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image", "image": "PATH"},
        {"type": "image", "path": "PATH"},
        {"type": "image", "url": "file://PATH"},
        {"type": "image_url", "image_url": {"url": "DATA", "detail": "auto"}},
        {"type": "image_url", "image_url": "DATA"},
        {"type": "input_image", "image_url": "DATA"},
    ],
)
def test_images_as_other_libraries_spell_them(tmp_path: Path, part: dict[str, Any]) -> None:
    path = tmp_path / "a b.png"
    path.write_bytes(png())

    def fill(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: fill(inner) for key, inner in value.items()}
        return value.replace("PATH", str(path)).replace("DATA", data_url(png()))

    assert only_image({"role": "user", "content": [fill(part) | {"max_pixels": 99}]}).data == png()
    assert only_image({"role": "user", "content": [fill(part) | {"max_pixels": 99}]}).max_pixels == 99


def test_any_container_will_do() -> None:
    history = deque([Message("user", "hi")], maxlen=3)
    assert messages_of(history) == messages_of(turn for turn in history) == tuple(history)
    assert Message("user", (text for text in ("a", "b"))).content == (TextPart("a"), TextPart("b"))
    assert GenerationOptions(stop={"a": 1}.keys()).stop == ("a",)  # type: ignore[arg-type]
    assert len(question("hi", (source for source in [b"x", b"y"]))[0].content) == 3
    film = np.zeros((2, 4, 4, 3), np.uint8)
    ((video,),) = (turn.content for turn in messages_of(Message("user", VideoPart(film, np.array([0, 1]) / 2))))  # type: ignore[arg-type]
    assert isinstance(video, VideoPart)
    assert (len(video.frames), video.timestamps_s) == (2, (0.0, 0.5))


def test_video_of_frames() -> None:
    frames = [png(), np.zeros((2, 4), np.uint8)]
    spaced = {"type": "video", "video": frames, "fps": 2}
    timed = {"type": "video", "video": frames, "timestamps_s": [0, 0.5]}
    for part in (spaced, timed):
        ((video,),) = (message.content for message in messages_of({"role": "user", "content": [part]}))
        assert isinstance(video, VideoPart)
        assert video.timestamps_s == (0.0, 0.5)
        assert np.asarray(video.frames[1]).shape == (2, 4, 3)


def test_pixels_of_every_kind() -> None:
    grey = np.arange(8, dtype=np.uint8).reshape(2, 4)
    for array in (grey, grey[:, :, np.newaxis]):
        assert np.array_equal(np.asarray(picture(array)), np.repeat(grey[:, :, np.newaxis], 3, axis=2))
    colour = np.random.default_rng(0).integers(0, 255, (2, 4, 3), np.uint8)
    opaque = np.dstack([colour, np.full((2, 4), 255, np.uint8)])
    assert np.array_equal(np.asarray(picture(opaque)), colour)
    assert np.array_equal(np.asarray(picture(colour[::-1, ::-1])), colour[::-1, ::-1])
    assert picture(bytearray(b"file")) == picture(memoryview(b"file")) == b"file"


@pytest.mark.parametrize(
    ("array", "advice"),
    [
        (np.zeros((2, 2, 3), np.float32), r"array \* 255"),
        (np.zeros((2, 2, 3), np.uint16), "array >> 8"),
        (np.zeros((2, 2), bool), r"astype\(np.uint8\) \* 255"),
        (np.zeros((2, 2, 3), np.int64), "from 0 to 255"),
        (np.zeros((3, 20, 20), np.uint8), r"transpose\(1, 2, 0\)"),
        (np.zeros((1, 2, 2, 3), np.uint8), r"array\[0\]"),
        (np.zeros((), np.uint8), "not a picture"),
        (np.zeros((2, 2, 0), np.uint8), "not a picture"),
    ],
)
def test_arrays_that_are_no_pictures_say_what_to_do(array: Any, advice: str) -> None:
    with pytest.raises(BadImage, match=advice):
        picture(array)


def test_strings_that_look_like_urls_and_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("shot:12:30.png").write_bytes(png())
    assert picture("shot:12:30.png") == picture(f"file://{tmp_path}/shot%3A12:30.png") == png()
    lines = data_url(png())[:50] + "\n" + data_url(png())[50:]
    assert picture(lines) == png()
    assert picture("DATA:,a%20b") == b"a b"


def test_sources_that_are_no_pictures(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    sources: dict[Any, str] = {
        "http://example.org/a.png": "nothing here goes to the network",
        "HTTPS://example.org/a.png": "nothing here goes to the network",
        "s3://bucket/a.png": "nothing here goes to the network",
        "data:image/png;base64": "without a comma",
        "data:image/png;base64,@@@@": "base64 is damaged",
        str(tmp_path): "not a file",
        tmp_path / "pipe": "not a file",
        "a\0b": "null",
        "x" * 5000: r"\(5000 characters\)",
    }
    for source, says in sources.items():
        with pytest.raises(BadImage, match=says):
            picture(source)


@pytest.mark.parametrize(
    ("chat", "error", "says"),
    [
        (None, BadPrompt, "messages is None"),
        ([], BadPrompt, "messages is empty"),
        (["a", 5], BadPrompt, "message 2: it is of type int"),
        ([{"role": "user"}], BadPrompt, "message 1: it has the keys role; wanted role and content"),
        ([{"role": "function", "content": "x"}], BadPrompt, "message 1: role 'function' is unknown"),
        ([Message(7, "x")], BadPrompt, "message 1: role 7 is unknown"),  # type: ignore[arg-type]
        ([{"role": "user", "content": None}], BadPrompt, "message 1: the content of a message is None"),
        ([{"role": "user", "content": "x", "function_call": {}}], BadPrompt, "message 1: the key 'function_call'"),
        (["a", {"role": "user", "content": [{"type": "audio"}]}], BadPrompt, "message 2, part 1: its type is 'audio'"),
        ([{"role": "user", "content": [{"type": "text", "text": 5}]}], BadPrompt, "message 1, text 1: it is of type"),
        (["a", "half \ud83d"], BadPrompt, r"message 2, text 1: it holds half a character \(U\+D83D\) at 5"),
        ([Message("user", [ImagePart(b"x"), ImagePart(7)])], BadImage, "message 1, image 2: int is not an image"),  # type: ignore[arg-type]
        ([Message("user", ImagePart(b"x", 1.5))], BadParameter, "message 1, image 1: min_pixels is 1.5"),  # type: ignore[arg-type]
        ([Message("user", VideoPart((b"x",), ()))], BadImage, "message 1, video 1: it has 1 frames and 0 timestamps"),
        ([Message("user", VideoPart((b"x", 7), (0.0, 1.0)))], BadImage, "message 1, video 1, frame 2: int is not"),  # type: ignore[arg-type]
        ([{"role": "user", "content": [{"type": "video", "video": "a.mp4"}]}], BadImage, "read_video"),
        ([{"role": "user", "content": [{"type": "image", "url": "a", "detail": "low"}]}], BadParameter, "max_pixels"),
        ([{"role": "user", "content": [{"type": "image"}]}], BadImage, "message 1, part 1: it has 0 sources"),
        (
            ["a", "b", Message("user", ["x", ImagePart(b""), ImagePart("http://x/y")])],  # type: ignore[arg-type]
            BadImage,
            "message 3, image 2: http://x/y is not fetched",
        ),
    ],
)  # fmt: skip
def test_refusals_at_the_client_name_the_place(chat: Any, error: type[EdgeError], says: str) -> None:
    with Client(NOBODY) as client, pytest.raises(error, match=says) as raised:
        client.generate(chat)
    assert type(raised.value) is error


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"stop": 5}, "stop is 5"),
        ({"stop": ["a", None]}, "a stop string is None"),
        ({"stop": {"a": 1}}, "stop is"),
        ({"stop": ""}, "stop takes"),
        ({"stop": "\ud800"}, "half a character"),
        ({"sampling": {"temperature": 1}}, "wanted SamplingParams"),
        ({"options": {"temperature": 1}}, "wanted GenerationOptions"),
        ({"sampling": GenerationOptions(max_tokens=5)}, "sampling is of type GenerationOptions; give it as options="),
        ({"seed": 10**5000}, "seed is a value of type int, too long to show; it must be a whole number"),
        ({"max_tokens": "5"}, "max_tokens is '5'"),
        ({"num_logprobs": 1.0}, "num_logprobs is 1.0"),
        ({"enable_thinking": "yes"}, "enable_thinking is 'yes'"),
    ],
)
def test_options_of_wrong_types_are_refused_at_the_client(options: Any, says: str) -> None:
    with Client(NOBODY) as client:
        for call in (client.generate, client.ask):
            with pytest.raises(BadParameter, match=says):
                call("hi", **options)


@pytest.mark.parametrize(
    ("prompt", "images", "says"),
    [
        (["hi"], (), "the prompt is of type list"),
        ("hi", 5, "images is of type int"),
        ("hi", [b"x", 7], "image 2: int is"),
    ],
)
def test_ask_refuses_by_name(prompt: Any, images: Any, says: str) -> None:
    with Client(NOBODY) as client, pytest.raises(EdgeError, match=says):
        client.ask(prompt, images=images)


def test_one_string_is_one_stop_string(serve: Serve) -> None:
    running = serve()
    with Client(running.address) as client:
        client.generate("count 1", stop="END").result  # noqa: B018
        client.ask("count 1", stop="END")
    assert [request.options.stop for request in running.engine.requests] == [("END",), ("END",)]


def test_ask_takes_one_image_and_a_system_message(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png())
    with Client(serve().address) as client:
        for source in (str(path), path, png(), [path], data_url(png())):
            text = client.ask("parts", images=source, system="look").text
            assert text == str(["system", "look", "user", (png(), None, None), "parts"])


def test_a_misspelt_option_is_named_by_whoever_was_asked() -> None:
    known = f"known are {', '.join(GenerationOptions.__struct_fields__)} and sampling"
    with Client(NOBODY) as client:
        for call in (client.ask, client.generate):
            with pytest.raises(TypeError) as raised:
                call("hi", max_token=5)
            assert str(raised.value) == f"{call.__name__}() got an unexpected option 'max_token'; {known}"
        with pytest.raises(TypeError, match=r"ask\(\) got an unexpected option 'messages'"):
            client.ask("hi", messages=3)


async def test_a_misspelt_option_is_named_by_the_async_client_too() -> None:
    async with AsyncClient(NOBODY) as client:
        with pytest.raises(TypeError, match=r"generate\(\) got an unexpected option 'max_token'"):
            client.generate("hi", max_token=5)
        with pytest.raises(TypeError, match=r"ask\(\) got an unexpected option 'messages'"):
            await client.ask("hi", messages=3)


def test_floats_of_numpy_arrive(serve: Serve) -> None:
    running = serve()
    with Client(running.address) as client:
        client.ask("count 1", sampling=SamplingParams(temperature=np.float64(0.5)))
    assert running.engine.requests[0].options == GenerationOptions(temperature=0.5)


def test_both_clients_and_both_methods_have_the_same_options() -> None:
    def options(method: Callable[..., Any]) -> dict[str, Any]:
        found = inspect.signature(method).parameters
        return {name: one.default for name, one in found.items() if one.kind is one.KEYWORD_ONLY}

    assert options(Client.generate) == options(AsyncClient.generate)
    assert options(Client.ask) == options(AsyncClient.ask)
    assert options(Client.ask) == options(Client.generate) | {"images": None, "system": None}


async def test_result_is_awaited_in_the_async_client_and_may_be_read_twice(serve: Serve) -> None:
    async with AsyncClient(serve().address) as client:
        async with client.generate("count 2") as stream:
            assert (await stream.result).text == "0 1 "
            assert (await stream.result()).text == "0 1 "
        assert (await client.ask("parts", system="look", stop="END")).text == str(["system", "look", "user", "parts"])


def test_question_is_what_ask_asks() -> None:
    assert question("hi", system="be brief") == (Message("system", "be brief"), Message("user", "hi"))
