"""A client written from docs/protocol.md alone: pyzmq, msgpack, and nothing of this project."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import zmq

from edge_runtime.model.conversation import PictureDigest

Serve = Callable[..., Any]
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "protocol.md"


class BareClient:
    """One DEALER socket and a dictionary encoder."""

    def __init__(self, context: zmq.Context[Any], address: str) -> None:
        self.socket = context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.RCVTIMEO, 20_000)
        self.socket.connect(address)

    def send(self, header: dict[str, Any], *frames: bytes) -> None:
        self.socket.send_multipart([msgpack.packb(header), *frames])

    def receive(self) -> dict[str, Any]:
        """The next message that is not a `pong`."""
        while True:
            (header,) = self.socket.recv_multipart()
            message = msgpack.unpackb(header)
            if message["type"] != "pong":
                return message

    def read_until_ending(self) -> list[dict[str, Any]]:
        messages = [self.receive()]
        while messages[-1]["type"] not in ("finished", "failed"):
            messages.append(self.receive())
        return messages


@pytest.fixture
def connect() -> Iterator[Callable[[str], BareClient]]:
    context = zmq.Context()
    clients: list[BareClient] = []

    def start(address: str) -> BareClient:
        clients.append(BareClient(context, address))
        return clients[-1]

    yield start
    for client in clients:
        client.socket.close(0)
    context.term()


def text(prompt: str, **fields: Any) -> dict[str, Any]:
    """The smallest `generate`."""
    content = [{"type": "text", "text": prompt}]
    return {"type": "generate", "id": "1", "messages": [{"role": "user", "content": content}], **fields}


def test_a_streamed_answer(serve: Serve, connect: Callable[[str], BareClient]) -> None:
    client = connect(serve().address)
    client.send(text("count 3"))
    accepted, *deltas, finished = client.read_until_ending()
    assert accepted == {"type": "accepted", "id": "1", "client_timeout_s": 30.0, "takes_digests": True}
    assert [delta["text"] for delta in deltas] == ["0 ", "1 ", "2 "]
    assert list(itertools.chain(*(delta["token_ids"] for delta in deltas))) == finished["token_ids"] == [1, 2, 3]
    assert finished["id"] == "1"
    assert finished["text"] == "0 1 2 "
    assert finished["finish_reason"] == "stop"
    assert finished["timings"]["prompt_tokens"] == 7


def test_images_and_video(serve: Serve, connect: Callable[[str], BareClient]) -> None:
    client = connect(serve().address)
    raw = bytes(range(12))
    content = [
        {"type": "image", "frame": {"index": 1}, "max_pixels": 4096},
        {"type": "image", "frame": {"index": 0, "width": 2, "height": 2}},
        {"type": "video", "frames": [{"index": 1}, {"index": 1}], "timestamps_s": [0, 0.5]},
        {"type": "text", "text": "parts"},
    ]
    message = {"type": "generate", "id": "1", "messages": [{"role": "user", "content": content}]}
    client.send(message, raw, b"a file")
    pixels = ((2, 2, 3), sum(raw))
    expected = ["user", (b"a file", None, 4096), (pixels, None, None), ([b"a file", b"a file"], [0.0, 0.5]), "parts"]
    assert client.read_until_ending()[-1]["text"] == str(expected)


def test_a_picture_by_digest(serve: Serve, connect: Callable[[str], BareClient]) -> None:
    running = serve()
    client = connect(running.address)
    raw, file = bytes(range(12)), b"a file"
    digests = [
        hashlib.blake2b(b"pixels (1, 4, 3)" + raw, digest_size=16).digest(),
        hashlib.blake2b(b"file" + file, digest_size=16).digest(),
    ]
    content = [{"type": "image", "frame": {"digest": digest}} for digest in (*digests, digests[0])]
    content.append({"type": "text", "text": "count 1"})
    client.send({"type": "generate", "id": "1", "messages": [{"role": "user", "content": content}]})
    assert client.read_until_ending()[-1]["type"] == "finished"
    found = [part.data for part in running.engine.requests[0].messages[0].content[:2]]
    pixels = np.frombuffer(raw, np.uint8).reshape(1, 4, 3)
    assert found == [PictureDigest.of(pixels), PictureDigest.of(file)]
    running.engine.is_forgetful = True
    client.send({"type": "generate", "id": "1", "messages": [{"role": "user", "content": content}]})
    assert client.receive()["type"] == "accepted"
    assert client.receive() == {"type": "need", "id": "1", "digests": digests}
    client.send(text("count 1"))  # the id is free again
    assert client.read_until_ending()[-1]["text"] == "0 "


NAMELESS = [{"id": "1", "name": "<", "arguments": ""}]
CALL = [{"id": "1", "name": "f", "arguments": "{}"}]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"tools": [{"name": "f"}, {"name": "f"}]}, "bad_parameter"),
        ({"tools": [{"name": ""}]}, "bad_parameter"),
        ({"tools": [{"name": "f", "parameters": "[]"}]}, "bad_parameter"),
        ({"tools": [{"name": "f", "parameters": {}}]}, "protocol_error"),
        ({"tools": [{}]}, "protocol_error"),
        ({"tools": [{"name": f"f{number}"} for number in range(129)]}, "bad_parameter"),
        ({"tool_choice": "required"}, "bad_parameter"),
        ({"tool_choice": "name:g", "tools": [{"name": "f"}]}, "bad_parameter"),
        ({"messages": [{"role": "user", "content": [], "tool_calls": CALL}]}, "bad_prompt"),
        ({"messages": [{"role": "assistant", "content": [], "tool_calls": NAMELESS}]}, "bad_parameter"),
        ({"messages": [{"role": "user", "content": [], "tool_call_id": "1"}]}, "bad_prompt"),
        ({"messages": [{"role": "user", "content": [], "reasoning": "hm"}]}, "bad_prompt"),
        ({"messages": [{"role": "function", "content": []}]}, "bad_prompt"),
    ],
)
def test_tools_that_make_no_sense_are_refused(
    serve: Serve, connect: Callable[[str], BareClient], changes: dict[str, Any], code: str
) -> None:
    client = connect(serve().address)
    client.send(text("count 1") | changes)
    ending = client.read_until_ending()[-1]
    assert (ending["type"], ending["code"]) == ("failed", code), ending
    client.send(text("count 1"))
    assert client.read_until_ending()[-1]["type"] == "finished"


def test_tools_calls_and_results(serve: Serve, connect: Callable[[str], BareClient]) -> None:
    running = serve()
    client = connect(running.address)
    tool = {"name": "f", "description": "d", "parameters": '{"type": "object", "properties": {}}'}
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
        {"role": "assistant", "content": [], "tool_calls": CALL, "reasoning": "hm"},
        {"role": "tool", "content": [{"type": "text", "text": "count 1"}], "tool_call_id": "1"},
    ]
    options = {"tools": [tool], "tool_choice": "name:f", "parallel_tool_calls": False}
    client.send({"type": "generate", "id": "1", "messages": messages, **options})
    assert client.read_until_ending()[-1]["type"] == "finished"
    (request,) = running.engine.requests
    assert [message.role for message in request.messages] == ["user", "assistant", "tool"]
    assert [(call.name, call.arguments) for call in request.messages[1].tool_calls] == [("f", "{}")]
    assert request.options.tools[0].parameters == tool["parameters"]
    assert not request.options.parallel_tool_calls


def test_ping_info_and_cancel(serve: Serve, connect: Callable[[str], BareClient]) -> None:
    client = connect(serve().address)
    client.send({"type": "ping"})
    assert msgpack.unpackb(client.socket.recv()) == {"type": "pong"}
    client.send({"type": "info", "id": "i"})
    info = client.receive()
    assert (info["type"], info["id"], info["protocol"], info["model"]) == ("info_reply", "i", 1, "fake")
    assert {"fps", "min_frames", "max_frames", "min_pixels", "max_pixels"} <= info["video"].keys()
    client.send(text("hold"))
    assert client.receive()["type"] == "accepted"
    assert client.receive()["type"] == "delta"
    client.send({"type": "cancel", "id": "unknown"})
    client.send({"type": "cancel", "id": "1"})
    failed = client.receive()
    assert (failed["id"], failed["code"], failed["retryable"]) == ("1", "cancelled", True)


def test_unknown_keys_are_ignored(serve: Serve, connect: Callable[[str], BareClient]) -> None:
    client = connect(serve().address)
    request = text("count 1", invented={"a": [1]})
    request["messages"][0]["content"][0]["colour"] = "red"
    client.send(request)
    assert client.read_until_ending()[-1]["text"] == "0 "


def test_options_are_refused_by_name_and_those_of_another_version_by_its_number(
    serve: Serve, connect: Callable[[str], BareClient]
) -> None:
    client = connect(serve().address)
    for strange, code, says in (
        ({"top_p": 2}, "bad_parameter", "top_p is 2.0; it must be a number from 1e-06 to 1"),
        ({"top_p": 2, "protocol": 2}, "protocol_error", "protocol version 2 is not served, only 1"),
    ):
        client.send(text("count 1", **strange))
        (failed,) = client.read_until_ending()
        assert (failed["id"], failed["code"], failed["message"]) == ("1", code, says)


def test_the_document_names_every_field_code_and_limit() -> None:
    from edge_runtime import errors
    from edge_runtime.engine import events
    from edge_runtime.engine.cache_info import CacheInfo
    from edge_runtime.model.tools import ToolCall, ToolDefinition
    from edge_runtime.serving import messages as wire
    from edge_runtime.serving.limits import DEFAULT_LIMITS

    document = DOCUMENT.read_text(encoding="utf-8")
    records = [wire.Generate, wire.Frame, wire.Image, wire.Video, wire.Text, wire.ChatMessage, wire.Cancel, wire.Ping]
    records += [wire.Info, wire.Accepted, wire.Need, wire.Delta, wire.Finished, wire.Failed, wire.Pong, wire.InfoReply]
    records += [wire.Session, wire.SessionReply]
    records += [ToolDefinition, ToolCall, events.ToolCallDelta]
    records += [events.Timings, events.TokenLogprob, events.ImageShape, CacheInfo, wire.VideoSampling, wire.Limits]
    fields = {field for record in records for field in record.__struct_encode_fields__}
    tags = {record.__struct_config__.tag for record in records} - {None}
    on_the_wire = {errors.RequestError, errors.BadImage, errors.BadPrompt, errors.BadParameter, errors.ContextOverflow}
    on_the_wire |= {
        errors.Overloaded,
        errors.Cancelled,
        errors.ShuttingDown,
        errors.ProtocolError,
        errors.InternalError,
    }
    on_the_wire |= {errors.UnknownSession, errors.TooManySessions, errors.SessionBusy}
    missing = [name for name in {*fields, *tags, *(error.code for error in on_the_wire)} if name not in document]
    assert missing == []
    table = document.split("### Error codes")[1].split("\n## ")[0].splitlines()
    for error in on_the_wire:
        (row,) = (line for line in table if line.startswith("|") and f"`{error.code}`" in line)
        assert row.split("|")[2].strip() == ("yes" if error.retryable else "no"), row
    assert f"{DEFAULT_LIMITS.max_frame_bytes >> 20} MiB each" in document
