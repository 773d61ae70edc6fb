"""A picture that was sent before goes by its digest, and whole where the server has forgotten it; no caller notices."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edge_kernels.library import KernelLibrary
from edge_runtime.engine.events import Delta, Failed, Finished
from edge_runtime.engine.request import GenerationOptions
from edge_runtime.errors import BadImage, Cancelled, ConnectionLost, ProtocolError, TimedOut
from edge_runtime.model.conversation import ImagePart, Message, PictureDigest, TextPart, VideoPart
from edge_runtime.serving import messages as wire
from edge_runtime.serving.async_client import AsyncClient
from edge_runtime.serving.client import Client
from edge_runtime.serving.client_core import ClientCore, Timeouts
from edge_runtime.serving.conversion import outgoing_request
from edge_runtime.serving.outgoing import Outgoing
from edge_runtime.serving.server import Server
from edge_runtime.serving.settings import ServerSettings
from edge_runtime.serving.sockets import Dealer
from tests.engine.tiny_engine import engine_of
from tests.serving.conftest import MODEL, pictures_of

Serve = Callable[..., Any]
FILE, OTHER, SMALL = b"a file " * 100, b"another " * 100, b"a thumbnail"
PIXELS = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)


def chat(*pictures: Any, text: str = "count 1") -> list[Message]:
    return [Message("user", [*map(ImagePart, pictures), TextPart(text)])]


def ask(client: Client, messages: list[Message], **options: Any) -> Finished:
    return client.generate(messages, **options).result


def is_digest_of(found: object, picture: Any) -> bool:
    return found == PictureDigest.of(picture)


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Bytes of binary frames of every message that a client sends with more than a header, or of a `generate`."""
    sent: list[int] = []
    send = Dealer.send

    def counting(dealer: Dealer, frames: Sequence[bytes]) -> bool:
        if b"generate" in frames[0]:
            sent.append(sum(map(len, frames[1:])))
        return send(dealer, frames)

    monkeypatch.setattr(Dealer, "send", counting)
    yield sent


def test_what_was_sent_before_goes_by_digest(serve: Serve, sizes: list[int]) -> None:
    running = serve()
    with Client(running.address) as client:
        for pictures in ([FILE, PIXELS, SMALL], [FILE, PIXELS, SMALL, OTHER, FILE], [OTHER]):
            assert client.generate(chat(*pictures)).result.text == "0 "
    first, second, third = map(pictures_of, running.engine.requests)
    assert (first[0], first[2]) == (FILE, SMALL)
    assert np.array_equal(first[1], PIXELS)
    assert second[2:4] == [SMALL, OTHER]
    assert is_digest_of(second[0], FILE)
    assert is_digest_of(second[1], PIXELS)
    assert is_digest_of(second[4], FILE)
    assert is_digest_of(third[0], OTHER)
    assert sizes == [len(FILE) + PIXELS.nbytes + len(SMALL), len(SMALL) + len(OTHER), 0]


def test_equal_bytes_of_another_shape_are_sent(serve: Serve, sizes: list[int]) -> None:
    with Client(serve().address) as client:
        for picture in (PIXELS, PIXELS.reshape(24, 16, 3), PIXELS.tobytes(), PIXELS):
            ask(client, chat(picture))
    assert sizes == [PIXELS.nbytes] * 3 + [0]


def test_video_frames_go_by_digest(serve: Serve, sizes: list[int]) -> None:
    running = serve()
    with Client(running.address) as client:
        for frames in ((FILE, OTHER), (OTHER, PIXELS)):
            ask(client, [Message("user", [VideoPart(frames, (0.0, 1.0)), TextPart("count 1")])])
    found = pictures_of(running.engine.requests[1])
    assert is_digest_of(found[0], OTHER)
    assert np.array_equal(found[1], PIXELS)
    assert sizes[1] == PIXELS.nbytes


def test_a_server_that_has_forgotten_is_sent_all_again(serve: Serve, sizes: list[int]) -> None:
    running = serve()
    with Client(running.address) as client:
        ask(client, chat(FILE, PIXELS))
        running.engine.is_forgetful = True
        changing = PIXELS.copy()
        stream = client.generate(chat(FILE, changing, OTHER, text="count 3"))
        changing[:] = 0  # the client has its own copy, also for the second time
        assert [delta.text for delta in stream] == ["0 ", "1 ", "2 "]
    _, short, whole = map(pictures_of, running.engine.requests)
    assert [is_digest_of(short[0], FILE), is_digest_of(short[1], PIXELS), short[2]] == [True, True, OTHER]
    assert (whole[0], whole[2]) == (FILE, OTHER)
    assert np.array_equal(whole[1], PIXELS)
    assert sizes == [len(FILE) + PIXELS.nbytes, len(OTHER), len(FILE) + PIXELS.nbytes + len(OTHER)]


async def test_the_client_for_asyncio_does_the_same(serve: Serve) -> None:
    running = serve()
    async with AsyncClient(running.address) as client:
        await client.generate(chat(FILE)).result
        running.engine.is_forgetful = True
        assert (await client.generate(chat(FILE, text="count 2")).result).text == "0 1 "
    assert [is_digest_of(pictures_of(request)[0], FILE) for request in running.engine.requests] == [False, True, False]


def test_another_connection_begins_with_the_bytes(serve: Serve, sizes: list[int]) -> None:
    running = serve()
    with Client(running.address) as client, Client(running.address) as other:
        ask(client, chat(FILE))
        ask(other, chat(FILE))
        client._link._do(lambda: client._link._lose("test"))
        ask(client, chat(FILE))
        ask(client, chat(FILE))
    assert sizes == [len(FILE)] * 3 + [0]


def test_callers_give_pictures_and_not_digests(serve: Serve) -> None:
    with Client(serve().address) as client, pytest.raises(BadImage, match="PictureDigest is not an image"):
        client.generate(chat(PictureDigest.of(FILE)))


# ---- with a model ----------------------------------------------------------------------------------------------


@pytest.fixture
def address(tiny_bundle_edge: Path, kernel_library: KernelLibrary) -> Iterator[str]:
    """A server of the tiny model."""
    server = Server(ServerSettings(bind="tcp://127.0.0.1:*"))
    thread = threading.Thread(target=server.run, args=(engine_of(tiny_bundle_edge, kernel_library), MODEL))
    thread.start()
    yield server.address
    server.stop()
    thread.join(20)
    assert not thread.is_alive()


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def test_a_loop_sends_each_screen_once_and_is_answered_the_same(address: str, sizes: list[int]) -> None:
    """Against a client that sends everything, and shares nothing with it."""
    screens = [np.random.default_rng(turn).integers(0, 256, (96, 160, 3), dtype=np.uint8) for turn in range(6)]
    sources = [screen if turn % 2 else png(screen) for turn, screen in enumerate(screens)]
    history, lengths, answers = [Message("system", "you are an agent " * 3)], [], []
    with Client(address) as client:
        for turn, source in enumerate(sources):
            history.append(Message("user", [ImagePart(source), TextPart(f"what now, in turn {turn}?")]))
            lengths.append(len(source) if isinstance(source, bytes) else source.nbytes)
            answers.append(ask(client, history, max_tokens=8))
            history.append(Message("assistant", answers[-1].text))
    assert sizes == lengths
    assert [answer.timings.vision_cached for answer in answers] == list(range(6))
    assert [[(image.width, image.height) for image in answer.images] for answer in answers] == [
        [(160, 96)] * (turn + 1) for turn in range(6)
    ]
    sizes.clear()
    for turn, answer in enumerate(answers):
        with Client(address) as alone:
            again = ask(alone, history[: 2 + 2 * turn], max_tokens=8, cache_salt=f"turn {turn}")
        assert (again.token_ids, again.timings.prompt_tokens) == (answer.token_ids, answer.timings.prompt_tokens)
        assert (again.timings.cached_tokens, again.timings.vision_cached) == (0, 0)
    assert sizes == [sum(lengths[: turn + 1]) for turn in range(6)]


def test_no_picture_of_a_history_or_of_a_session_is_hashed_twice(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once by the client, once by the server: both are in this process."""
    hashed: list[int] = []
    of = PictureDigest.of

    def counting(picture: bytes | np.ndarray) -> PictureDigest:
        hashed.append(len(picture) if isinstance(picture, bytes) else picture.nbytes)
        return of(picture)

    monkeypatch.setattr(PictureDigest, "of", counting)
    screens = [np.random.default_rng(turn).integers(0, 256, (96, 160, 3), dtype=np.uint8) for turn in range(4)]
    history: list[Message] = []
    with Client(address) as client:
        session = client.session()
        for turn, screen in enumerate(screens):
            source = screen if turn % 2 else png(screen)
            num_bytes = len(source) if isinstance(source, bytes) else source.nbytes
            question = Message("user", [ImagePart(source), TextPart(f"what now, in turn {turn}?")])
            hashed.clear()
            history.append(question)
            answer = ask(client, history, max_tokens=4)
            history.append(Message("assistant", answer.text))
            assert hashed == [num_bytes] * 2
            in_session = session.generate(question, max_tokens=4).result
            assert hashed == [num_bytes] * 3  # the client knows it
            assert in_session.token_ids == answer.token_ids


def test_under_another_salt_a_digest_stands_for_nothing(address: str, sizes: list[int]) -> None:
    with Client(address) as client:
        answers = [ask(client, chat(PIXELS), max_tokens=4, cache_salt=salt) for salt in ("a", "a", "b", "b")]
    assert sizes == [PIXELS.nbytes, 0, 0, PIXELS.nbytes, 0]
    assert [answer.timings.vision_cached for answer in answers] == [0, 1, 0, 1]
    assert len({answer.token_ids for answer in answers}) == 1


def test_pixels_that_need_no_resizing_are_answered_the_same(address: str) -> None:
    """They go to the encoder as they lie in the message, read-only; a file of them is decoded."""
    screen = np.random.default_rng(9).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    with Client(address) as client:
        answers = [
            ask(client, chat(picture), max_tokens=4, cache_salt=str(type(picture))) for picture in (screen, png(screen))
        ]
    assert answers[0].token_ids == answers[1].token_ids
    assert [answer.images[0].num_tokens for answer in answers] == [64, 64]


def test_another_size_in_the_model_is_another_picture(address: str, sizes: list[int]) -> None:
    screen = np.random.default_rng(9).integers(0, 256, (160, 256, 3), dtype=np.uint8)
    with Client(address) as client, Client(address) as other:
        for max_pixels in (None, 16384, 16384):
            messages = [Message("user", [ImagePart(screen, max_pixels=max_pixels), TextPart("what is it?")])]
            answer = ask(client, messages, max_tokens=4)
        fresh = ask(other, messages, max_tokens=4, cache_salt="fresh")
    assert sizes == [screen.nbytes, 0, screen.nbytes, 0, screen.nbytes]
    assert answer.token_ids == fresh.token_ids


def test_a_clip_goes_by_digest_and_is_answered_the_same(address: str, sizes: list[int]) -> None:
    frames = [np.random.default_rng(number).integers(0, 256, (64, 96, 3), dtype=np.uint8) for number in range(4)]
    messages = [Message("user", [VideoPart(tuple(frames), (0.0, 1.0, 2.0, 3.0)), TextPart("what happens?")])]
    with Client(address) as client:
        first, again = ask(client, messages, max_tokens=4), ask(client, messages, max_tokens=4)
    assert sizes == [4 * frames[0].nbytes, 0]
    assert first.token_ids == again.token_ids
    assert again.timings.vision_cached == 2


# ---- the client's decisions alone ------------------------------------------------------------------------------


class Exchange:
    """A `ClientCore` and what would go over its wire."""

    def __init__(self, takes_digests: bool = True) -> None:
        timeouts = Timeouts(connect_s=5, first_token_s=50, idle_s=10, server_silence_s=1000)
        self.core = ClientCore("tcp://127.0.0.1:1", timeouts)
        self.takes_digests = takes_digests

    def begin(self, request_id: str, now_s: float = 0.0) -> list[bytes]:
        return self.core.begin(request_id, now_s, request(request_id))

    def accepted(self, request_id: str, now_s: float = 0.0) -> None:
        message = wire.Accepted(request_id=request_id, client_timeout_s=30.0, takes_digests=self.takes_digests)
        assert self.core.receive([wire.encode(message)], now_s) == []

    def need(self, request_id: str, now_s: float = 0.0) -> list[Any]:
        message = wire.Need(request_id=request_id, digests=(PictureDigest.of(FILE).digest,))
        return list(self.core.receive([wire.encode(message)], now_s))

    def known(self) -> Exchange:
        """After a first request with the picture."""
        self.begin("0")
        self.accepted("0")
        self.core.receive([wire.encode(Finished("0", "", "stop"))], 0.0)
        return self


def request(request_id: str) -> Outgoing:
    return outgoing_request(request_id, chat(FILE), GenerationOptions())


def test_nothing_goes_by_digest_before_the_server_has_accepted_it() -> None:
    exchange = Exchange()
    assert exchange.begin("1")[1:] == exchange.begin("2")[1:] == [FILE]
    exchange.accepted("1")
    assert exchange.begin("3")[1:] == []


def test_a_server_that_does_not_say_so_gets_no_digests() -> None:
    exchange = Exchange(takes_digests=False).known()
    assert exchange.begin("1")[1:] == [FILE]


def test_a_request_is_sent_whole_once() -> None:
    exchange = Exchange().known()
    assert exchange.begin("1")[1:] == []
    exchange.accepted("1")
    assert exchange.need("1") == []
    assert exchange.core.take_again() == [("1", request("1").whole())]
    assert exchange.core.take_again() == []
    exchange.accepted("1")
    (failed,) = exchange.need("1")
    assert isinstance(failed.error, ProtocolError)
    assert exchange.core.idle


def test_pictures_that_were_sent_are_no_reason_to_send_them_again() -> None:
    exchange = Exchange()
    exchange.begin("1")
    exchange.accepted("1")
    (failed,) = exchange.need("1")
    assert isinstance(failed.error, ProtocolError)


@pytest.mark.parametrize("is_accepted", [False, True])
def test_what_was_cancelled_meanwhile_is_not_sent_again(is_accepted: bool) -> None:
    """The server has ended the request, and ignores the cancel."""
    exchange = Exchange().known()
    exchange.begin("1")
    if is_accepted:
        exchange.accepted("1")
    exchange.core.cancel("1")
    (failed,) = exchange.need("1")
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, Cancelled)
    assert exchange.core.take_again() == []
    assert exchange.core.idle


def test_what_was_forgotten_meanwhile_is_not_sent_again() -> None:
    exchange = Exchange().known()
    exchange.begin("1")
    assert exchange.core.forget("1")
    assert exchange.need("1") == exchange.core.take_again() == []


def test_sending_it_again_gives_no_more_time_to_the_first_token() -> None:
    exchange = Exchange().known()
    exchange.begin("1", 100.0)
    exchange.accepted("1", 101.0)
    exchange.need("1", 140.0)
    assert exchange.core.tick(144.9)[1] == []
    exchange.accepted("1", 144.9)
    assert exchange.core.tick(150.9)[1] == []
    _, (late,) = exchange.core.tick(151.0)
    assert isinstance(late, Failed)
    assert isinstance(late.error, TimedOut)


def test_a_server_that_does_not_accept_it_again_is_lost() -> None:
    exchange = Exchange().known()
    exchange.begin("1", 100.0)
    exchange.accepted("1", 101.0)
    exchange.need("1", 140.0)
    _, (lost,) = exchange.core.tick(145.0)
    assert isinstance(lost, Failed)
    assert isinstance(lost.error, ConnectionLost)


def test_a_lost_connection_has_sent_nothing() -> None:
    exchange = Exchange().known()
    exchange.begin("1")
    exchange.need("1")
    exchange.core.lose("gone")
    assert exchange.core.take_again() == []
    assert exchange.begin("2")[1:] == [FILE]


def test_the_pictures_that_a_client_remembers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_runtime.serving.outgoing._MAX_SENT", 2)
    core = Exchange().core
    sent = []
    for number in (0, 1, 0, 2, 0, 1):
        outgoing = outgoing_request("1", chat(FILE + bytes([number])), GenerationOptions())
        sent.append(len(core.begin("1", 0.0, outgoing)) - 1)
        core.receive([wire.encode(wire.Accepted(request_id="1", client_timeout_s=30.0, takes_digests=True))], 0.0)
        core.receive([wire.encode(Delta("1", "a"))], 0.0)
        core.receive([wire.encode(Finished("1", "a", "stop"))], 0.0)
    assert sent == [1, 1, 0, 1, 0, 1]
