"""What of an engine goes into the file of a session, and comes out of it again. Knows no file.

What is above the line may be called from any thread; what is below touches keys and values, and belongs to the engine's
thread, between its steps. Each is a small piece of work, so that nobody who is being answered waits for a whole cache.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edge_runtime.engine.model_runner import ModelRunner
from edge_runtime.engine.request import GenerationRequest
from edge_runtime.engine.session_record import LogRecord, ids_from_bytes
from edge_runtime.engine.session_state import SavedState
from edge_runtime.engine.token_log import TokenLog
from edge_runtime.errors import EdgeError
from edge_runtime.model.cancellation import CancelToken
from edge_runtime.model.conversation import Message
from edge_runtime.model.fingerprint import Fingerprint
from edge_runtime.model.kv_cache import KVLease

if TYPE_CHECKING:
    from edge_runtime.engine.scheduler import Scheduler
    from edge_runtime.engine.session import Sessions

_log = logging.getLogger(__name__)

_MAX_PIECE_TOKENS = 64
_NEXT = Message("user", "?")
"""Stands for the next question: some templates treat the last answer of a chat in another way than those before it."""


class Saving:
    """Keys, values, tokens and drawn answers of sessions, out of an engine and into it."""

    def __init__(self, runner: ModelRunner, sessions: Sessions, scheduler: Scheduler) -> None:
        self.sessions = sessions
        self._runner = runner
        self._scheduler = scheduler

    @property
    def fingerprint(self) -> Fingerprint:
        """Of the model."""
        return self._runner.fingerprint

    @property
    def block_size(self) -> int:
        """Tokens of a block."""
        return self._runner.kv_cache.block_size

    @property
    def piece_tokens(self) -> int:
        """Tokens that are saved or loaded at a time: a few megabytes of a large model."""
        return math.gcd(self.block_size, _MAX_PIECE_TOKENS)

    @property
    def token_bytes(self) -> int:
        """Keys and values of a token."""
        return self._runner.kv_bytes_per_token

    @property
    def max_tokens(self) -> int:
        """Room in the cache."""
        return self._runner.kv_cache.max_tokens

    def past(self, state: SavedState) -> TokenLog | None:
        """The log of a session, as a next request would have it; None if none could be answered."""
        try:
            said = (*state.messages, _NEXT)
            request = GenerationRequest("session", said, cache_salt=state.salt, tools=state.tools)
            return self._runner.prepare(request, CancelToken())
        except EdgeError as error:
            _log.info("what was computed of a session is not saved or restored: %s", error)
            return None

    def answers(self, log: TokenLog) -> list[tuple[int, int]]:
        """Where in `log.short_ids` answers stand as they were drawn."""
        return self._runner.answers.spans(log.short_ids, log.salt)

    def remember(self, short_ids: NDArray[np.int64], spans: Sequence[tuple[int, int]], salt: bytes) -> None:
        """Remember the answers at `spans` of a prompt as drawn."""
        for start, stop in spans:
            self._runner.answers.note(short_ids[:start], tuple(short_ids[start:stop].tolist()), salt)

    def common_tokens(self, log: TokenLog, saved: LogRecord, *, private: bool) -> int:
        """How many of the saved tokens begin `log`: all, or whole blocks of them.

        Of images whose pixels nothing is known of here, what was saved is believed; `private`: in such a way that
        nobody who has the same pixels under this salt gets to hear of it.
        """
        if saved.rope_delta != log.rope_delta:  # other images were dropped
            return 0
        tokens = ids_from_bytes(saved.token_ids)
        same = tokens == np.resize(log.input_ids, len(tokens)) if len(log) else tokens < 0
        num_common = min(len(log), int(np.argmin(np.append(same, False))))
        for number, one in enumerate(log.media):
            if one.span.start >= num_common:
                break
            record = saved.media[number] if number < len(saved.media) else None
            place = (one.span.start, one.span.grid.rows, one.span.grid.columns)
            if record is None or place != (record.start, record.rows, record.columns):
                num_common = one.span.start
                break
            digest = private_digest(record.digest, log.salt) if private else record.digest
            if one.digest is None:
                self._runner.media.recognize(one, digest)
            if one.digest != digest:
                num_common = one.span.start
                break
        return num_common if num_common == len(tokens) else num_common // self.block_size * self.block_size

    # ---- between the steps of the engine ---------------------------------------------------------------------

    def find(self, log: TokenLog) -> tuple[KVLease, int] | None:
        """Hold the first tokens of `log` that are in the cache, and how many they are."""
        self._materialize(log)
        found = self._runner.kv_cache.find(next(log.sources(self.block_size)))
        if found is not None:
            self._scheduler.lent.append(found[0])
        return found

    def _materialize(self, log: TokenLog) -> None:
        """Give a log out of which something was dropped since it was last run the rows that a request would copy."""
        size = self.block_size
        sources = list(log.sources(size))
        has_gaps = len(sources) > 1  # beside itself
        keys = log.keys(size, (len(log) - 1) // size)
        lease = self._runner.kv_cache.lease(len(log), keys, sources) if has_gaps else None
        if lease is not None:
            self._commit(log, lease)
            lease.free()

    def lease(self, num_tokens: int) -> tuple[KVLease, int] | None:
        """Room for so many tokens, or for as many blocks as there is room for now."""
        cache, size = self._runner.kv_cache, self.block_size
        num_tokens = min(num_tokens, cache.free_tokens // size * size)
        lease = cache.lease(num_tokens) if num_tokens else None
        if lease is None:
            return None
        self._scheduler.lent.append(lease)
        return lease, num_tokens

    def dump(self, lease: KVLease, start: int, num_tokens: int) -> bytes:
        """Up to `piece_tokens` of the tokens that are held."""
        return self._runner.kv_blocks.dump(lease, start, num_tokens)

    def load(self, lease: KVLease, start: int, num_tokens: int, saved: bytes) -> None:
        """Fill the room of up to `piece_tokens` tokens that was leased."""
        self._runner.kv_blocks.load(lease, start, num_tokens, saved)

    def publish(self, log: TokenLog, lease: KVLease, num_tokens: int) -> None:
        """Let others find what was leased: it holds the first tokens of `log` now."""
        lease.extend(num_tokens)
        self._commit(log, lease)

    def _commit(self, log: TokenLog, lease: KVLease) -> None:
        index, rest = divmod(lease.length, self.block_size)
        lease.commit(log.keys(self.block_size, index))
        if rest:
            lease.commit_part(index, log.parts(self.block_size, index)[:rest])

    def give_back(self, lease: KVLease) -> None:
        """Let go of what `find` or `lease` gave; what can be found is kept for as long as there is room."""
        self._scheduler.lent.remove(lease)
        lease.free()


def private_digest(digest: bytes, salt: bytes) -> bytes:
    """What stands for pixels of which a stranger said that they have `digest`, under a salt that nobody else has."""
    return hashlib.blake2b(digest, digest_size=16, salt=salt).digest()
