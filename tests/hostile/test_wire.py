"""Hostile messages: whatever arrives, the server answers with one `Failed` and goes on serving."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import msgspec
import pytest
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_runtime.engine.cache_info import CacheInfo
from edge_runtime.engine.events import Event, Finished
from edge_runtime.engine.request import GenerationRequest
from edge_runtime.engine.session import Sessions
from edge_runtime.model.cancellation import CancelToken
from edge_runtime.serving import messages as wire
from edge_runtime.serving.client_core import ClientCore, Timeouts
from edge_runtime.serving.limits import DEFAULT_LIMITS
from edge_runtime.serving.server import Server
from edge_runtime.serving.settings import ServerSettings

LIMITS = msgspec.structs.replace(
    DEFAULT_LIMITS, max_frame_bytes=1000, max_message_bytes=2500, max_frames=4, max_header_bytes=5000, max_parts=30
)
VIDEO = wire.VideoSampling(
    fps=2.0,
    min_frames=4,
    max_frames=8,
    min_pixels=1,
    max_pixels=2,
    patch_size=16,
    spatial_merge_size=2,
    temporal_patch_size=2,
)
TEXT = {"type": "text", "text": "hello"}
DIGEST = bytes(range(16))


class EchoEngine:
    """Finishes every request at the next step."""

    cache_info = CacheInfo()

    def __init__(self) -> None:
        self.waiting: list[GenerationRequest] = []
        self.sessions = Sessions()

    @property
    def has_work(self) -> bool:
        return bool(self.waiting)

    def prepare(self, request: GenerationRequest, cancel: CancelToken) -> GenerationRequest:
        return request

    def add(self, prepared: GenerationRequest, client: object = None) -> None:
        self.waiting.append(prepared)

    def cancel(self, request_id: str) -> None:
        pass

    def step(self) -> list[Event]:
        waiting, self.waiting = self.waiting, []
        return [Finished(request.request_id, "ok", "stop") for request in waiting]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server(ServerSettings(bind="tcp://127.0.0.1:*", limits=LIMITS))
    model = wire.ModelInfo("fake", "portable", 100, 100, VIDEO, "0")
    thread = threading.Thread(target=server.run, args=(EchoEngine(), model))
    thread.start()
    yield server
    server.stop()
    thread.join(20)
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def send(server: Server) -> Iterator[Callable[..., dict[str, Any]]]:
    """Sends frames, then a ping; returns the one answer that comes before the pong (of a `generate`, its ending)."""
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.RCVTIMEO, 20_000)
    socket.connect(server.address)

    def exchange(*frames: bytes) -> dict[str, Any]:
        socket.send_multipart(frames)
        answer = msgpack.unpackb(socket.recv())
        while answer["type"] in ("accepted", "pong"):
            answer = msgpack.unpackb(socket.recv())
        socket.send(msgpack.packb({"type": "info", "id": "still there"}))
        while (reply := msgpack.unpackb(socket.recv()))["type"] == "pong":
            pass
        assert reply["id"] == "still there", f"a second answer: {reply}"
        return dict(answer)

    yield exchange
    socket.close(0)
    context.term()


def generate(*content: Any, **fields: Any) -> bytes:
    header = {"type": "generate", "id": "1", "messages": [{"role": "user", "content": list(content)}], **fields}
    return bytes(msgpack.packb(header))


def image(**frame: Any) -> dict[str, Any]:
    return {"type": "image", "frame": frame}


def video(num_frames: int, times: list[float]) -> dict[str, Any]:
    return {"type": "video", "frames": [{"index": 0}] * num_frames, "timestamps_s": times}


NOT_MESSAGES = {
    "nothing": b"",
    "not MessagePack": b"\xc1",
    "cut short": generate(TEXT)[:-3],
    "trailing bytes": generate(TEXT) + b"\x00",
    "a number": msgpack.packb(7),
    "a list": msgpack.packb(["generate", "1"]),
    "a map without type": msgpack.packb({"id": "1"}),
    "an unknown type": msgpack.packb({"type": "format_disk", "id": "1"}),
    "type of the server": msgpack.packb({"type": "finished", "id": "1", "text": "", "finish_reason": "stop"}),
    "integer keys": msgpack.packb({1: "generate"}),
    "broken UTF-8": b"\x82\xa4type\xa8generate\xa2id\xa2\xff\xfe",
    "broken UTF-8 in a key": b"\x82\xa4type\xa8generate\xa2\xff\xfe\xa1x",
    "deep nesting": b"\x91" * 4000 + b"\xc0",
    "a map that claims to be huge": b"\xdf\xff\xff\xff\xff",
    "a string that claims to be huge": b"\xdb\xff\xff\xff\xff",
    "pickle": b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.",
    "empty id": generate(TEXT, id=""),
    "long id": generate(TEXT, id="x" * 129),
    "integer id": generate(TEXT, id=1),
    "cancel without id": msgpack.packb({"type": "cancel"}),
}


@pytest.mark.parametrize("header", NOT_MESSAGES.values(), ids=NOT_MESSAGES.keys())
def test_what_is_no_message_belongs_to_no_request(send: Callable[..., dict[str, Any]], header: bytes) -> None:
    answer = send(header)
    assert (answer["type"], answer["id"], answer["code"]) == ("failed", "", "protocol_error")


BAD_REQUESTS = {
    "no messages field": (msgpack.packb({"type": "generate", "id": "1"}), "protocol_error"),
    "messages of numbers": (generate(TEXT, messages=[1]), "protocol_error"),
    "text of bytes": (generate({"type": "text", "text": b"\xff"}), "protocol_error"),
    "an unknown part": (generate({"type": "sound"}), "protocol_error"),
    "max_tokens of text": (generate(TEXT, max_tokens="many"), "protocol_error"),
    "seed beyond 64 bits": (generate(TEXT, seed=2**64 - 1), "bad_parameter"),
    "a missing frame": (generate(image(index=0)), "protocol_error"),
    "a negative frame": (generate(image(index=-1)), "protocol_error"),
    "another protocol": (generate(TEXT, protocol=99), "protocol_error"),
    "an unknown role": (generate(messages=[{"role": "function", "content": []}]), "bad_prompt"),
    "no tokens": (generate(TEXT, max_tokens=0), "bad_parameter"),
    "cold": (generate(TEXT, temperature=-1), "bad_parameter"),
    "not a number": (generate(TEXT, temperature=float("nan")), "bad_parameter"),
    "an empty stop string": (generate(TEXT, stop=[""]), "bad_parameter"),
}


@pytest.mark.parametrize(("header", "code"), BAD_REQUESTS.values(), ids=BAD_REQUESTS.keys())
def test_bad_requests_end_under_their_own_id(send: Callable[..., dict[str, Any]], header: bytes, code: str) -> None:
    answer = send(header)
    assert (answer["type"], answer["id"], answer["code"]) == ("failed", "1", code)
    assert answer["message"]


BAD_PICTURES = {
    "too few bytes": (image(index=0, width=2, height=2), b"x" * 11, "bad_image"),
    "too many bytes": (image(index=0, width=2, height=2), b"x" * 13, "bad_image"),
    "a product beyond 64 bits": (image(index=0, width=2**31 - 1, height=2**31 - 1), b"x", "bad_image"),
    "width alone": (image(index=0, width=2), b"x", "protocol_error"),
    "zero width": (image(index=0, width=0, height=2), b"", "protocol_error"),
    "neither index nor digest": (image(), b"x", "protocol_error"),
    "both index and digest": (image(index=0, digest=DIGEST), b"x", "protocol_error"),
    "a digest and a size": (image(digest=DIGEST, width=2, height=2), b"x", "protocol_error"),
    "a digest that is cut short": (image(digest=DIGEST[:-1]), b"x", "protocol_error"),
    "a digest that is too long": (image(digest=DIGEST + b"x"), b"x", "protocol_error"),
    "a digest of letters": (image(digest="x" * 16), b"x", "protocol_error"),
    "a video without frames": (video(0, []), b"x", "bad_image"),
    "a video with too few times": (video(2, [0.0]), b"x", "bad_image"),
    "a video that runs back": (video(2, [1.0, 0.5]), b"x", "bad_image"),
    "a video of no time": (video(1, [float("nan")]), b"x", "bad_image"),
}


@pytest.mark.parametrize(("part", "frame", "code"), BAD_PICTURES.values(), ids=BAD_PICTURES.keys())
def test_bad_pictures(send: Callable[..., dict[str, Any]], part: Any, frame: bytes, code: str) -> None:
    assert send(generate(part), frame)["code"] == code


def test_one_digest_many_times_is_one_picture(send: Callable[..., dict[str, Any]]) -> None:
    frame = {"digest": DIGEST}
    clip = {"type": "video", "frames": [frame] * 3, "timestamps_s": [0.0, 1.0, 2.0]}
    assert send(generate(image(**frame), image(**frame), clip))["type"] == "finished"


MANY_PARTS = {
    "parts": generate(*[image(index=0)] * 30),
    "video frames": generate(video(29, [0.0] * 29)),
    "digests": generate(*[image(digest=DIGEST)] * 30),
    "messages": generate(messages=[{"role": "user", "content": []}] * 31),
}


@pytest.mark.parametrize("header", MANY_PARTS.values(), ids=MANY_PARTS.keys())
def test_parts_are_counted_however_few_frames_they_use(send: Callable[..., dict[str, Any]], header: bytes) -> None:
    answer = send(header, b"x")
    assert (answer["type"], answer["id"], answer["code"]) == ("failed", "1", "protocol_error")
    assert "31 messages, parts and video frames" in answer["message"]


OVERSIZED = {
    "header": ([generate({"type": "text", "text": "x" * 6000})], "", "header has"),
    "frame": ([generate(TEXT), b"x" * 1001], "1", "binary frame has 1001 bytes"),
    "message": ([generate(TEXT), *[b"x" * 1000] * 3], "1", "message has 3000 bytes"),
    "number of frames": ([generate(TEXT), *[b"x"] * 5], "1", "5 binary frames"),
}


@pytest.mark.parametrize(("frames", "request_id", "message"), OVERSIZED.values(), ids=OVERSIZED.keys())
def test_sizes(send: Callable[..., dict[str, Any]], frames: list[bytes], request_id: str, message: str) -> None:
    answer = send(*frames)
    assert (answer["type"], answer["id"], answer["code"]) == ("failed", request_id, "protocol_error")
    assert message in answer["message"]


def test_absurd_frame_cuts_the_connection_and_the_server_lives(
    server: Server, send: Callable[..., dict[str, Any]]
) -> None:
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        monitor = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        socket.connect(server.address)
        socket.send_multipart([generate(TEXT), b"x" * 10_001])
        assert monitor.poll(20_000)
        socket.disable_monitor()
        monitor.close(0)
    assert send(generate(TEXT))["type"] == "finished"


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=200), min_size=1, max_size=6))
def test_random_bytes_are_refused(send: Callable[..., dict[str, Any]], frames: list[bytes]) -> None:
    # A ping or an id-less cancel cannot come out of 200 random bytes by accident; a refusal must.
    assert send(*frames)["code"] == "protocol_error"


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=9)
    | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(wire.Generate.__struct_encode_fields__), VALUES, max_size=6))
def test_mutated_requests_end_exactly_once(send: Callable[..., dict[str, Any]], fields: dict[str, Any]) -> None:
    answer = send(generate(TEXT, **fields))
    assert answer["type"] in ("finished", "failed")
    assert answer.get("code") in (None, "protocol_error", "bad_parameter", "bad_prompt", "bad_image")


@settings(max_examples=300)
@given(
    st.binary(max_size=200) | st.builds(msgpack.packb, st.dictionaries(st.sampled_from(["type", "id", "text"]), VALUES))
)
def test_client_survives_whatever_a_server_says(header: bytes) -> None:
    core = ClientCore("tcp://127.0.0.1:1", Timeouts())
    core.begin("1", 0.0)
    core.receive([header], 0.0)
    replies = core.receive([wire.encode(wire.Finished(request_id="1", text="ok", finish_reason="stop"))], 0.0)
    assert [reply.request_id for reply in replies] == ["1"]


@pytest.mark.parametrize("kind", ["delta", "finished", "failed", "info_reply"])
def test_damaged_ending_fails_the_request(kind: str) -> None:
    core = ClientCore("tcp://127.0.0.1:1", Timeouts())
    core.begin("1", 0.0)
    (reply,) = core.receive([msgpack.packb({"type": kind, "id": "1", "text": 5, "code": 5})], 0.0)
    assert reply.error.code == "protocol_error"
    assert core.idle
