"""`Client` and `AsyncClient` against a server in a thread: answers, endings, cancels, timeouts, lost servers."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import zmq
from msgspec import convert
from PIL import Image

from edge_runtime.engine.cache_info import CacheInfo
from edge_runtime.engine.events import Finished
from edge_runtime.engine.request import SamplingParams
from edge_runtime.errors import BadImage, BadParameter, Cancelled, ConnectionLost, InternalError, ShuttingDown, TimedOut
from edge_runtime.model.conversation import ImagePart, Message, TextPart, VideoPart
from edge_runtime.serving.async_client import AsyncClient
from edge_runtime.serving.client import Client
from edge_runtime.serving.client_core import Timeouts
from edge_runtime.serving.images import image_part, question

Serve = Callable[..., Any]


def test_stream_gives_every_delta_and_the_whole_answer(serve: Serve) -> None:
    with Client(serve().address) as client, client.generate(question("count 5")) as stream:
        assert [delta.text for delta in stream] == ["0 ", "1 ", "2 ", "3 ", "4 "]
        result = stream.result
    assert (result.text, result.token_ids, result.finish_reason) == ("0 1 2 3 4 ", (1, 2, 3, 4, 5), "stop")
    assert result.timings.prompt_tokens == 7
    assert result.timings.total_ms == 1.5


def test_request_arrives_as_it_was_made(serve: Serve) -> None:
    running = serve()
    sampling = SamplingParams(0.5, 7, 0.9, 0.1, 1.1, 0.2, 0.3, 2**63 - 1)
    with Client(running.address) as client:
        stream = client.generate(
            question("count 1"),
            sampling=sampling,
            max_tokens=3,
            stop=["a", "b"],
            enable_thinking=True,
            num_logprobs=2,
            stop_on_repetition=True,
            parse_special=True,
        )
        assert stream.result.text == "0 "
    (request,) = running.engine.requests
    options = request.options
    assert convert(options, SamplingParams, from_attributes=True) == sampling
    assert (options.max_tokens, options.stop, options.num_logprobs) == (3, ("a", "b"), 2)
    assert (options.enable_thinking, options.stop_on_repetition, options.parse_special) == (True, True, True)


def test_a_length_that_nobody_gave_is_the_servers_to_choose(serve: Serve) -> None:
    running = serve()
    with Client(running.address) as client:
        client.ask("count 1")
    assert [request.options.max_tokens for request in running.engine.requests] == [None]


def test_pictures_arrive_as_they_were_given(serve: Serve) -> None:
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    seen = ((2, 3, 3), int(pixels.sum()))
    messages = (
        Message("system", (TextPart("look"),)),
        Message("user", (ImagePart(b"file", 10, 20), ImagePart(pixels), TextPart("and"))),
        Message("assistant", (TextPart("seen"),)),
        Message("user", (VideoPart((pixels, b"frame"), (0.0, 0.5)), TextPart("parts"))),
    )
    with Client(serve().address) as client:
        text = client.generate(messages).result.text
    image, array = (b"file", 10, 20), (seen, None, None)
    video = ([seen, b"frame"], [0.0, 0.5])
    assert text == str(["system", "look", "user", image, array, "and", "assistant", "seen", "user", video, "parts"])


def test_caller_may_reuse_an_array_at_once(serve: Serve) -> None:
    pixels = np.ones((50, 50, 3), np.uint8)
    with Client(serve().address) as client:
        stream = client.generate(question("parts", [pixels]))
        pixels[:] = 0
        assert "((50, 50, 3), 7500)" in stream.result.text


def test_image_sources(tmp_path: Any) -> None:
    rgb = Image.new("RGB", (4, 2), (1, 2, 3))
    assert np.array_equal(np.asarray(image_part(rgb).data), np.asarray(rgb))
    path = tmp_path / "a.png"
    rgb.save(path)
    assert image_part(path).data == image_part(str(path)).data == path.read_bytes()
    palette = rgb.quantize(4)
    assert np.array_equal(np.asarray(image_part(palette).data), np.asarray(palette.convert("RGB")))
    assert np.asarray(image_part(Image.new("CMYK", (4, 2))).data).shape == (2, 4, 3)
    sideways = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by a quarter
    rgb.save(sideways, "JPEG", exif=exif)
    assert np.asarray(image_part(Image.open(sideways)).data).shape == (4, 2, 3)
    with pytest.raises(BadImage, match="cannot read the image"):
        image_part(tmp_path / "missing.png")
    with pytest.raises(BadImage, match="is not an image"):
        image_part(7)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "array", [np.zeros((2, 2, 2), np.uint8), np.zeros((2, 2, 3), np.float32), np.zeros((0, 2, 3), np.uint8)]
)
def test_arrays_that_are_no_pictures_are_refused_before_sending(array: Any) -> None:
    with Client("tcp://127.0.0.1:1") as client, pytest.raises(BadImage, match=r"wanted uint8 \[H, W, 3\]"):
        client.ask("x", images=[array])


def test_engine_refusals_are_raised_by_type(serve: Serve) -> None:
    with Client(serve().address) as client:
        with pytest.raises(BadImage, match="no such picture"):
            client.ask("refuse")
        with pytest.raises(InternalError, match="ZeroDivisionError"):
            client.ask("break")
        assert client.ask("count 1").text == "0 "


def test_cancel_ends_the_stream_with_cancelled(serve: Serve) -> None:
    running = serve()
    with Client(running.address) as client:
        stream = client.generate(question("hold"))
        assert next(stream).text == "0 "
        stream.cancel()
        with pytest.raises(Cancelled):
            next(stream)
        assert list(stream) == []
    assert running.server.tally.failed == 1


def test_cancel_straight_after_generate_is_not_lost(serve: Serve) -> None:
    with Client(serve().address) as client:
        streams = [client.generate(question("hold")) for _ in range(10)]
        for stream in streams:
            stream.cancel()
        for stream in streams:
            with pytest.raises(Cancelled):
                stream.result  # noqa: B018


def test_closing_a_stream_cancels_its_request(serve: Serve) -> None:
    running = serve()
    with Client(running.address) as client:
        with client.generate(question("hold")) as stream:
            next(stream)
        running.engine.wait_until_idle(1)
        assert list(stream) == []
        with pytest.raises(Cancelled, match="closed before"):
            stream.result  # noqa: B018
        assert client.ask("count 1").text == "0 "


def test_many_streams_of_many_threads_at_once(serve: Serve) -> None:
    results: dict[int, str] = {}
    with Client(serve().address) as client:

        def ask(number: int) -> None:
            results[number] = client.ask(f"count {number}").text

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(1, 13)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    assert results == {n: "".join(f"{i} " for i in range(n)) for n in range(1, 13)}


def test_info(serve: Serve) -> None:
    with Client(serve().address) as client:
        info = client.info()
    assert (info.model, info.max_context, info.protocol) == ("fake", 4096, 1)
    assert info.limits.max_in_flight_per_client == 16
    assert info.cache == CacheInfo(prompt_tokens=40, cached_tokens=10, images=3, vision_cached=1)


def test_no_server() -> None:
    with Client("tcp://127.0.0.1:1", timeouts=Timeouts(connect_s=0.1)) as client:
        with pytest.raises(ConnectionLost, match=r"within 0\.1 s.*edge-runtime serve"):
            client.ask("count 1")
        with pytest.raises(ConnectionLost):
            client.info()


@pytest.mark.parametrize(
    ("prompt", "timeouts", "awaited"),
    [("silent", Timeouts(first_token_s=0.1), "first token"), ("hold", Timeouts(idle_s=0.1), "next token")],
)
def test_token_timeouts_cancel_the_request(serve: Serve, prompt: str, timeouts: Timeouts, awaited: str) -> None:
    running = serve()
    with Client(running.address, timeouts=timeouts) as client:
        with pytest.raises(TimedOut, match=rf"no {awaited} within 0\.1 s"):
            client.ask(prompt)
        running.engine.wait_until_idle(1)


def test_silent_server_is_given_up() -> None:
    """A process that accepts connections and says nothing, as one that hangs."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        port = router.bind_to_random_port("tcp://127.0.0.1")
        timeouts = Timeouts(connect_s=None, server_silence_s=0.2)
        with Client(f"tcp://127.0.0.1:{port}", timeouts=timeouts) as client, pytest.raises(ConnectionLost):
            client.ask("count 1")


def test_server_restart_fails_what_is_in_flight_and_the_next_request_works(serve: Serve) -> None:
    first = serve()
    with Client(first.address) as client:
        stream = client.generate(question("hold"))
        next(stream)
        first.stop()
        with pytest.raises(ShuttingDown, match="try again"):
            next(stream)
        second = serve(bind=first.address)
        assert client.ask("count 2").text == "0 1 "
        assert second.server.tally.finished == 1


def test_closed_client_says_so(serve: Serve) -> None:
    client = Client(serve().address)
    stream = client.generate(question("hold"))
    next(stream)
    client.close()
    client.close()
    with pytest.raises(ConnectionLost, match="closed"):
        next(stream)
    with pytest.raises(ConnectionLost, match="this client is closed"):
        client.ask("count 1")


@pytest.mark.parametrize(
    "address",
    ["tcp://192.168.0.1:5", "tcp://*:5", "http://127.0.0.1:1", "tcp://127.0.0.1", "ipc://", "ipc://a\0b", None, 5633],
)
def test_client_addresses_that_are_refused(address: Any) -> None:
    with pytest.raises(BadParameter):
        Client(address)
    with pytest.raises(BadParameter, match="timeouts is of type int"):
        Client(timeouts=5)  # type: ignore[arg-type]


async def test_async_stream_and_ask(serve: Serve) -> None:
    async with AsyncClient(serve().address) as client:
        async with client.generate(question("count 3")) as stream:
            assert [delta.text async for delta in stream] == ["0 ", "1 ", "2 "]
            assert (await stream.result).text == (await stream.result()).text == "0 1 2 "
        answers = await asyncio.gather(*(client.ask(f"count {n}") for n in range(1, 9)))
        assert [len(answer.token_ids) for answer in answers] == list(range(1, 9))
        assert (await client.info()).model == "fake"
        with pytest.raises(BadImage):
            await client.ask("refuse")


async def test_async_cancel_and_task_cancellation(serve: Serve) -> None:
    running = serve()
    async with AsyncClient(running.address) as client:
        stream = client.generate(question("hold"))
        await anext(stream)
        stream.cancel()
        with pytest.raises(Cancelled):
            await anext(stream)
        task = asyncio.create_task(client.ask("hold"))
        while len(running.engine.requests) < 2:
            await client.info()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(running.engine.wait_until_idle, 2)


async def test_async_closed_while_streaming(serve: Serve) -> None:
    client = AsyncClient(serve().address)
    stream = client.generate(question("hold"))
    await anext(stream)
    await client.close()
    with pytest.raises(ConnectionLost, match="closed"):
        await anext(stream)


def test_ipc(serve: Serve, tmp_path: Any) -> None:
    running = serve(bind=f"ipc://{tmp_path}/edge.sock")
    with Client(running.address) as client:
        assert isinstance(client.ask("count 1"), Finished)
    assert (tmp_path / "edge.sock").stat().st_mode & 0o777 == 0o600
