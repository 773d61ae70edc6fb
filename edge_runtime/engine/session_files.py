"""Sessions into files and back, with all that was computed of them. Knows no socket.

A file has the messages with their pictures, the tokens, the answers as drawn, and keys and values block by block, so
that neither side ever holds a second copy of the cache.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Hashable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from edge_runtime import __version__
from edge_runtime.engine.request import GenerationOptions
from edge_runtime.engine.saving import Saving
from edge_runtime.engine.session_file import SessionFileReader, SessionFileWriter, reading, writing
from edge_runtime.engine.session_record import (
    AnswersRecord,
    Header,
    LogRecord,
    MediaRecord,
    decode_header,
    ids_from_bytes,
    ids_to_bytes,
    message_records,
    messages_of,
    state_of,
)
from edge_runtime.engine.session_state import SavedState, SessionState
from edge_runtime.engine.token_log import TokenLog
from edge_runtime.errors import SessionFileError
from edge_runtime.model.kv_cache import KVLease

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class Call(Protocol):
    """Does a piece of work where the engine may be touched."""

    def __call__(self, work: Callable[[], _T]) -> _T:
        """What it returns."""


def _here(work: Callable[[], _T]) -> _T:
    return work()


class SessionFiles:
    """Saves and restores the sessions of one engine. For any thread, with a `call` that brings work to the engine's."""

    def __init__(self, saving: Saving, call: Call = _here) -> None:
        """Without `call` the engine belongs to the thread that saves."""
        self._saving = saving
        self._call = call

    def save(self, session_id: str, path: Path, cache_salt: str = "") -> SessionState:
        """Save a session to `path`; what was there stays until the new file is complete.

        Raises `UnknownSession`, `SessionBusy`, or `SessionFileError` for what cannot be written.
        """
        return self.write(self._saving.sessions.saved(session_id, cache_salt), path)

    def write(self, state: SavedState, path: Path) -> SessionState:
        """Save a session as it was; raises as `save`, but it may have gone on since."""
        session_id = state.session_id
        assert session_id is not None
        with writing(path) as writer:
            messages, pictures = message_records(state.messages, writer.add)
            log = self._saving.past(state)
            header = Header(
                library=__version__,
                saved_at_s=time.time(),
                model=self._saving.fingerprint,
                session_id=session_id,
                cache_salt=state.cache_salt,
                key_salt=state.key_salt,
                idle_s=state.idle_s,
                messages=messages,
                tools=state.tools,
                pictures=pictures,
                answers=None if log is None else self._answers(log),
                log=None if log is None else self._write_blocks(log, writer),
            )
            writer.finish(msgspec.msgpack.encode(header))
        return self._saving.sessions.state(session_id, state.cache_salt)

    def restore(
        self, path: Path, cache_salt: str = "", *, client: Hashable = None, is_ours: bool = False
    ) -> SessionState:
        """A new session out of a file, with what fits of its keys and values, and the salt that it was saved with.

        Unless `is_ours`, the file may be a forgery: what it says was computed is found by this session and its forks
        alone. Raises `SessionFileError` or `TooManySessions`; then nothing has changed.
        """
        with reading(path) as reader:
            header = self._header(reader, path)
            if header.cache_salt != cache_salt:
                raise SessionFileError(f"{path} was saved with another cache_salt; give that one")
            return self._restore(reader, header, client=client, is_ours=is_ours)

    # ---- those that a server keeps ---------------------------------------------------------------------------

    @property
    def timeout_s(self) -> float:
        """A session that nobody has used for so long is forgotten."""
        return self._saving.sessions.limits.timeout_s

    @property
    def max_blocks(self) -> int:
        """Room in the cache."""
        return self._saving.max_tokens // self._saving.block_size

    def idle_sessions(self) -> list[tuple[str, str]]:
        """Name and salt of each that is answering nothing, the one used last first."""
        return self._saving.sessions.idle()

    def idle_s(self, path: Path) -> float:
        """For how long nobody has used the session of a file. Raises `SessionFileError`."""
        with reading(path) as reader:
            return _idle_s(decode_header(reader.header, str(path)))

    def bring_back(self, path: Path, max_blocks: int) -> int:
        """Open a session of our own again under its name, with at most so many blocks; say how many it has.

        Raises as `restore`.
        """
        with reading(path) as reader:
            header = self._header(reader, path)
            self._restore(reader, header, is_ours=True, idle_s=_idle_s(header), max_blocks=max_blocks)
            num_tokens = 0 if header.log is None else len(header.log.pieces) * header.log.piece_tokens
            return min(max_blocks, -(-num_tokens // self._saving.block_size))

    # ---- how -------------------------------------------------------------------------------------------------

    def _header(self, reader: SessionFileReader, path: Path) -> Header:
        """What the file says of itself. Raises `SessionFileError`, also for another model's."""
        header = decode_header(reader.header, str(path))
        reader.expect(header.pieces)
        difference = header.model.difference(self._saving.fingerprint)
        if difference is not None:
            raise SessionFileError(f"{path} was saved with another model: {difference}; serve that one to restore it")
        return header

    def _answers(self, log: TokenLog) -> AnswersRecord | None:
        spans = self._saving.answers(log)
        return AnswersRecord(ids_to_bytes(log.short_ids[: spans[-1][1]]), tuple(spans)) if spans else None

    def _write_blocks(self, log: TokenLog, writer: SessionFileWriter) -> LogRecord | None:
        found = self._call(partial(self._saving.find, log))
        if found is None:
            return None
        lease, num_tokens = found
        size = self._saving.piece_tokens
        try:
            pieces = [
                writer.add(self._call(partial(self._saving.dump, lease, start, min(size, num_tokens - start))))
                for start in range(0, num_tokens, size)
            ]
        finally:
            self._call(partial(self._saving.give_back, lease))
        media = [one for one in log.media if one.span.start < num_tokens]
        return LogRecord(
            token_ids=ids_to_bytes(log.ids(0, num_tokens)),
            rope_delta=log.rope_delta,
            media=tuple(
                MediaRecord(one.span.start, one.span.grid.rows, one.span.grid.columns, one.digest or b"")
                for one in media
            ),
            piece_tokens=size,
            pieces=tuple(pieces),
        )

    def _restore(
        self,
        reader: SessionFileReader,
        header: Header,
        *,
        client: Hashable = None,
        is_ours: bool,
        idle_s: float | None = None,
        max_blocks: int | None = None,
    ) -> SessionState:
        """`idle_s`: under its old name, unused for so long; else under a new one."""
        self._saving.sessions.check_room(sum(picture.piece.length for picture in header.pictures))
        state = state_of(header, messages_of(header, reader.read))
        state = replace(state, session_id=None, idle_s=0.0) if idle_s is None else replace(state, idle_s=idle_s)
        if not is_ours:
            state = replace(state, key_salt=f"restored {secrets.token_urlsafe(32)}")
        loaded = self._load(reader, header, state, is_ours=is_ours, max_blocks=max_blocks)
        try:
            opened = self._saving.sessions.reopen(state, client=client)
            if loaded is not None:
                self._call(partial(self._saving.publish, *loaded))
            return opened
        finally:
            if loaded is not None:
                self._call(partial(self._saving.give_back, loaded[1]))

    def _load(
        self, reader: SessionFileReader, header: Header, state: SavedState, *, is_ours: bool, max_blocks: int | None
    ) -> tuple[TokenLog, KVLease, int] | None:
        """Fill room in the cache with saved tokens, which nobody finds yet: their log, the lease, and how many."""
        self._remember_answers(header, state)
        record = header.log
        if record is None:
            return None
        counts = self._counts(record)
        is_usable = self._saving.block_size % record.piece_tokens == 0 and header.library == __version__
        if not is_usable:
            _log.info("a session was saved by another release, or cut otherwise: its past is computed anew")
        log = self._saving.past(state) if is_usable else None
        wanted = 0 if log is None else self._saving.common_tokens(log, record, private=not is_ours)
        if max_blocks is not None:
            wanted = min(wanted, max_blocks * self._saving.block_size)
        leased = self._call(partial(self._saving.lease, wanted))
        lease, num_tokens = (None, 0) if leased is None else leased
        try:
            for index, (piece, count) in enumerate(zip(record.pieces, counts, strict=True)):
                if lease is not None and (start := index * record.piece_tokens) < num_tokens:
                    self._call(partial(self._saving.load, lease, start, count, reader.read(piece)))
                elif max_blocks is None:
                    reader.skip(piece)  # who restores a file hears of all damage to it
        except BaseException:
            if lease is not None:
                self._call(partial(self._saving.give_back, lease))
            raise
        return None if lease is None or log is None else (log, lease, num_tokens)

    def _counts(self, record: LogRecord) -> list[int]:
        """How many tokens each saved block has. Raises `SessionFileError` where they do not have that length."""
        num_tokens, size = len(ids_from_bytes(record.token_ids)), record.piece_tokens
        counts = [min(size, num_tokens - start) for start in range(0, num_tokens, size)] if size > 0 else []
        if not counts or [piece.length for piece in record.pieces] != [
            count * self._saving.token_bytes for count in counts
        ]:
            raise SessionFileError("the saved session has not as many keys and values as tokens; save it again")
        return counts

    def _remember_answers(self, header: Header, state: SavedState) -> None:
        answers = header.answers
        if answers is None:
            return
        short_ids = ids_from_bytes(answers.token_ids)
        is_known = (short_ids >= 0) & (short_ids < header.model.vocab_size)
        if any(not start < stop <= len(short_ids) for start, stop in answers.spans) or not is_known.all():
            raise SessionFileError("the saved session has an answer outside its tokens; save it again")
        self._saving.remember(short_ids, answers.spans, GenerationOptions(cache_salt=state.salt).salt)


def _idle_s(header: Header) -> float:
    return header.idle_s + max(0.0, time.time() - header.saved_at_s)
