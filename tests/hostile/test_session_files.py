"""Files of sessions that were damaged, cut short or made up, and processes that die while they write one."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge_runtime.engine.engine import Engine
from edge_runtime.engine.session_file import (
    MAGIC,
    PREAMBLE_BYTES,
    Piece,
    SessionFileReader,
    SessionFileWriter,
    reading,
    writing,
)
from edge_runtime.engine.session_files import SessionFiles
from edge_runtime.engine.session_record import Header, decode_header
from edge_runtime.errors import SessionFileError, TooManySessions
from tests.engine.test_session_files import conversation, files_of
from tests.engine.tiny_engine import engine_of

Change = Callable[[dict[str, Any]], None]


@pytest.fixture(scope="module")
def engine(tiny_bundle: Path) -> Engine:
    return engine_of(tiny_bundle, None)


@pytest.fixture(scope="module")
def saved(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file that is restored as it is."""
    path = tmp_path_factory.mktemp("saved") / "chat"
    files_of(engine).save(conversation(engine), path)
    return path.read_bytes()


def refuse(engine: Engine, path: Path, match: str, error: type[Exception] = SessionFileError) -> None:
    """It is refused, and nothing has changed."""
    cache = engine._runner.kv_cache
    before = engine.sessions.num_sessions, engine.sessions.num_bytes, cache.kept_tokens, cache.free_tokens
    with pytest.raises(error, match=match):
        SessionFiles(engine.saving).restore(path)
    assert (engine.sessions.num_sessions, engine.sessions.num_bytes, cache.kept_tokens, cache.free_tokens) == before


def header_of(saved: bytes, path: Path) -> Header:
    path.write_bytes(saved)
    with reading(path) as reader:
        return decode_header(reader.header, "chat")


def test_every_flipped_byte_is_found(engine: Engine, saved: bytes, tmp_path: Path) -> None:
    path = tmp_path / "chat"
    header = header_of(saved, path)
    pieces_end = PREAMBLE_BYTES + sum(piece.length for piece in header.pieces)
    places = set(range(PREAMBLE_BYTES)) | {len(saved) - 1, pieces_end - 1, pieces_end}
    start = PREAMBLE_BYTES
    for piece in header.pieces:  # every picture and block
        places |= {start, start + piece.length // 2, start + piece.length - 1}
        start += piece.length
    assert start == pieces_end
    places |= set(random.Random(1).sample(range(pieces_end, len(saved)), 100))
    for place in sorted(places):
        data = bytearray(saved)
        data[place] ^= 1 << place % 8
        path.write_bytes(data)
        magic, version = len(MAGIC), len(MAGIC) + 4
        refuse(engine, path, "not a saved" if place < magic else "version" if place < version else "chat is damaged")


def test_every_length_but_its_own_is_refused(engine: Engine, saved: bytes, tmp_path: Path) -> None:
    path = tmp_path / "chat"
    lengths = {*range(80), *random.Random(2).sample(range(80, len(saved)), 100), len(saved) - 1, len(saved) + 1}
    for length in lengths:
        path.write_bytes((saved + b"\0")[:length])
        refuse(engine, path, "not a saved" if length < len(MAGIC) else "chat is damaged")


def remade(saved: bytes, path: Path, change: Change) -> None:
    """Write `saved` with another header and right digests, as a forger would."""
    header = header_of(saved, path)
    fields = msgspec.msgpack.decode(msgspec.msgpack.encode(header))
    with reading(path) as reader:
        reader.expect(header.pieces)
        data = [reader.read(piece) for piece in header.pieces]
    change(fields)
    path.unlink()
    with path.open("wb") as file:
        writer = SessionFileWriter(file)
        for one in data:
            writer.add(one)
        writer.finish(msgspec.msgpack.encode(fields))


def put(*keys: str | int, value: object) -> Change:
    def change(fields: Any) -> None:
        for key in keys[:-1]:
            fields = fields[key]
        fields[keys[-1]] = value

    return change


def grow(*keys: str | int) -> Change:
    """A length that is larger than anything."""

    def change(fields: Any) -> None:
        for key in keys:
            fields = fields[key]
        fields[0] = 2**62

    return change


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (grow("pictures", 0, "piece"), "pieces are not"),
        (put("pictures", 0, "piece", 0, value=-1), "pieces are not"),
        (put("pictures", value=[]), "pieces are not"),
        (put("pictures", 0, "height", value=2**31 - 1), "another size"),
        (put("pictures", 0, "height", value=None), "another size"),
        (put("pictures", 0, "height", value=0), "header"),
        (put("messages", 1, "parts", 0, "pictures", value=[77]), "without its picture"),
        (put("messages", 1, "parts", 0, "pictures", value=[-1]), "header"),
        (put("messages", 1, "parts", 0, "pictures", value=[]), "neither text"),
        (put("messages", 3, "parts", 0, "timestamps_s", value=[0.0]), "neither text"),
        (put("messages", 3, "parts", 0, "timestamps_s", value=[2.0, 1.0]), "neither text"),
        (put("messages", 3, "parts", 0, "timestamps_s", value=[0.0, float("nan")]), "neither text"),
        (put("messages", 1, "role", value="root"), "header"),
        (put("session_id", value="../../etc/passwd"), "header"),
        (put("cache_salt", value="x" * 300), "header"),
        (put("cache_salt", value="other"), "another cache_salt"),
        (put("model", "model", value="other"), "another model"),
        (put("model", value=None), "header"),
        (put("log", "token_ids", value=b"123"), "half a token"),
        (put("log", "token_ids", value=b"1234"), "not as many"),
        (put("log", "piece_tokens", value=-32), "not as many"),
        (put("answers", "token_ids", value=b""), "outside its tokens"),
        (put("answers", "token_ids", value=b"\0\0\0\0" * 500 + b"\xff\xff\xff\x7f"), "outside its tokens"),
        (put("messages", value=[{"role": "user", "parts": []}] * (1 << 17)), "more than 65536"),
        (put("answers", "spans", value=[[2**40, 2**40 + 1]]), "outside its tokens"),
        (lambda fields: fields.clear(), "header"),
    ],
)
def test_made_up_headers_are_refused(engine: Engine, saved: bytes, tmp_path: Path, change: Change, match: str) -> None:
    path = tmp_path / "chat"
    remade(saved, path, change)
    refuse(engine, path, match)


@pytest.mark.parametrize(
    "change",
    [
        put("log", "media", value=[]),
        put("log", "media", 0, 1, value=10**9),
        put("log", "media", 0, 3, value=b"x" * 1000),
        put("log", "rope_delta", value=2**40),
        put("log", "piece_tokens", value=16),
        put("answers", value=None),
        put("messages", 1, "parts", 1, "text", value="something else"),
    ],
)
def test_what_does_not_fit_the_messages_is_not_used(
    engine: Engine, saved: bytes, tmp_path: Path, change: Change
) -> None:
    path = tmp_path / "chat"
    remade(saved, path, change)
    cache = engine._runner.kv_cache
    before = engine.sessions.num_sessions
    try:
        restored = SessionFiles(engine.saving).restore(path)
    except SessionFileError:
        assert engine.sessions.num_sessions == before
    else:
        engine.sessions.close(restored.session_id)
    assert cache.free_tokens == cache.max_tokens


def test_a_header_without_end_and_what_is_no_file(engine: Engine, saved: bytes, tmp_path: Path) -> None:
    path = tmp_path / "chat"
    with path.open("wb") as file:
        SessionFileWriter(file).finish(b"\x91" * 100_000)
    refuse(engine, path, "header of")
    refuse(engine, tmp_path / "nowhere", "No such file")
    refuse(engine, tmp_path, "cannot be read|is not a file")
    refuse(engine, tmp_path / "a\0b", "cannot be read")
    os.mkfifo(tmp_path / "pipe")
    refuse(engine, tmp_path / "pipe", "is not a file")
    (tmp_path / ".chat.saving").write_bytes(saved)
    refuse(engine, tmp_path / ".chat.saving", "never finished")


def test_pictures_are_counted_before_they_are_read(engine: Engine, saved: bytes, tmp_path: Path) -> None:
    path = tmp_path / "chat"
    size = 1 << 40  # a hole: takes no room on the disk, and would all of the memory

    def swell(fields: Any) -> None:
        fields["pictures"].append({"piece": [size, b""], "height": None, "width": None})
        fields["log"] = None

    remade(saved, path, swell)
    header = header_of(saved, tmp_path / "as it was")
    used = PREAMBLE_BYTES + sum(picture.piece.length for picture in header.pictures)
    remade_header = SessionFileReader(path.open("rb"), "chat").header
    with path.open("r+b") as file:
        file.truncate(used)
        writer = SessionFileWriter(file)
        file.seek(used + size)
        writer.finish(remade_header)
    refuse(engine, path, "all sessions would hold", TooManySessions)


def test_nothing_but_a_session_is_ever_replaced(engine: Engine, tmp_path: Path) -> None:
    session = engine.sessions.open().session_id
    precious = tmp_path / "precious"
    precious.write_text("do not lose me")
    (tmp_path / "link").symlink_to(precious)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("precious", "link", "dangling", "folder", "pipe", "no/folder"):
        with pytest.raises(SessionFileError, match=r"not a saved session|cannot be written"):
            files_of(engine).save(session, tmp_path / name)
    assert precious.read_text() == "do not lose me"
    files_of(engine).save(session, tmp_path / "chat")
    files_of(engine).save(session, tmp_path / "chat")
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".saving")]
    with writing(tmp_path / "chat"), pytest.raises(SessionFileError, match="another process is saving"):
        files_of(engine).save(session, tmp_path / "chat")


CHILD = """
import os, sys
from pathlib import Path
from edge_runtime.engine import session_file
from edge_runtime.engine.session_file import writing

def told(name, real):
    def do(*arguments):
        print(name, flush=True)
        done = real(*arguments)
        print(name, flush=True)
        return done
    return do

os.fsync = told("fsync", os.fsync)
path, number = Path(sys.argv[1]), int(sys.argv[2])
while True:
    number += 1
    with writing(path) as writer:
        pieces = []
        for _ in range(5):
            pieces.append(writer.add(bytes([number % 256]) * 300_000))
            print("piece", flush=True)
        writer.finish(repr((number, [(piece.length, piece.digest) for piece in pieces])).encode())
        print("header", flush=True)
    print("done", flush=True)
"""


def test_killed_while_saving_the_old_file_is_there_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "chat"
    rng = random.Random(3)
    last = 0
    for _ in range(12):
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(path), str(last)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(rng.randrange(1, 25))]
        child.send_signal(signal.SIGKILL)
        child.communicate()
        at_least = last + lines.count("done\n")
        if path.exists():
            with reading(path) as reader:
                number, pieces = eval(reader.header)
                reader.expect(Piece(*piece) for piece in pieces)
                assert {reader.read(Piece(*piece)) for piece in pieces} == {bytes([number % 256]) * 300_000}
            assert number >= at_least
            last = number
        else:
            assert at_least == 0
        for left in tmp_path.iterdir():
            if left != path:
                assert left.name == ".chat.saving"
                with pytest.raises(SessionFileError, match="never finished"), reading(left):
                    pass
    assert last > 0
    with writing(path) as writer:  # what was left behind is taken over
        writer.finish(b"")
    assert [left.name for left in tmp_path.iterdir()] == ["chat"]
