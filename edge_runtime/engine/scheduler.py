"""Decides what the next step runs. Knows queues, token counts and leases; nothing of graphs, sampling or text.

Policy:
- Clients take turns in having a chat admitted, each client's in order of arrival, when there is room in the KV cache
  for its prompt and its longest answer, so a chat that runs never has to be thrown out. Whose turn it is is not
  overtaken: a long one cannot starve.
- In every step each decoding chat gets its next token.
- One chat gets a part of a vision run or a chunk of its prompt. Chats that need one take turns, so each waits at most
  for one chunk of every other between two of its own, and a short question passes a long one. Who waits for an image
  to be decoded, which happens elsewhere, is passed over; one image at a time is being encoded, and just before the
  chunk that needs it, for the memory it takes.
- A third of the time belongs to those that decode: after a step with such a part or chunk come as many without as it
  takes until each has drawn a third of the tokens that it would have with nobody beside them (decision 68). The rest
  belongs to the others, however many decode, and what is owed to those that decode never grows by their number or age.
- Chunks are cut at `prefill_chunk` tokens from where a chat begins to compute, whatever else runs: other chats do not
  change a chat's numbers. (Where that is may depend on what was in the cache: decision 66.) Where the cut does not
  change them either, they are cut at `shared_chunk` tokens while others decode, who then wait less at a time.
"""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Hashable
from dataclasses import dataclass, replace

from edge_runtime.engine.chat import Chat, Phase
from edge_runtime.engine.request import DEFAULT_MAX_TOKENS
from edge_runtime.engine.settings import EngineSettings
from edge_runtime.errors import ContextOverflow, InternalError, Overloaded
from edge_runtime.model.kv_cache import KVCache, KVLease

_log = logging.getLogger(__name__)

_DECODING_SHARE = 1 / 3
"""What decoding chats get of the time when others prefill or have images encoded: at least so much."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The work of one step."""

    encode: Chat | None
    """The chat whose next image or frame pair is encoded."""
    shares: tuple[tuple[Chat, int], ...]
    """Who runs how many tokens: all decoding chats the last of their log, at most one prefilling chat a chunk."""
    wait_for: Chat | None = None
    """Where there is nothing else to do: the chat whose image is being decoded."""
    num_decoding: int = 0
    """How many of those shares are of decoding chats."""

    @property
    def decodes_only(self) -> bool:
        """Whether nobody gets a chunk, or a part of a vision run."""
        return self.encode is None and len(self.shares) == self.num_decoding


class Scheduler:
    """The queues of an engine: waiting chats of each client, and running ones in order of their turn."""

    __slots__ = ("_alone", "_kv_cache", "_max_context", "_owed_s", "_running", "_settings", "_waiting", "lent")

    def __init__(self, kv_cache: KVCache, max_context: int, settings: EngineSettings) -> None:
        """`max_context`: longest prompt plus answer the model takes, in tokens."""
        self._kv_cache = kv_cache
        self._max_context = min(max_context, kv_cache.max_tokens)
        self._settings = settings
        self._waiting: OrderedDict[Hashable, deque[Chat]] = OrderedDict()  # by client; whose turn is next comes first
        self._running: deque[Chat] = deque()
        self.lent: list[KVLease] = []
        """Room that sessions hold while they are saved or restored."""
        self._owed_s = 0.0  # what decoding chats have had too little of the time
        self._alone = (0, 0.0)  # so many decoding chats have just taken so many seconds for a step

    @property
    def num_running(self) -> int:
        """Chats that hold room in the KV cache."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Chats that wait for it."""
        return sum(map(len, self._waiting.values()))

    def check_idle(self) -> None:
        """With no chat in flight the whole cache must be free, but for what is lent."""
        cache = self._kv_cache
        if cache.free_tokens + sum(lease.capacity for lease in self.lent) != cache.max_tokens:
            _log.error("idle, but only %d of %d cache tokens are free", cache.free_tokens, cache.max_tokens)

    def check_room(self) -> None:
        """Raise `Overloaded` if not one more chat may wait."""
        in_flight = self.num_running + self.num_waiting
        if in_flight >= self._settings.max_running + self._settings.max_waiting:
            raise Overloaded(f"{in_flight} requests are running or waiting, which is the limit; try again later")

    def answer_length(self, num_prompt: int, num_image: int, max_tokens: int | None) -> int:
        """How long the answer to a prompt of `num_prompt` tokens may be: `max_tokens`; None: as the room allows.

        Raises `ContextOverflow` if the prompt and the answer asked for can never fit.
        """
        room = self._max_context - num_prompt
        if room < 1:
            raise ContextOverflow(
                f"the prompt has {num_prompt} tokens, {num_image} of them image or video, and the context "
                f"{self._max_context} for prompt and answer; send less text, fewer images, or a lower max_pixels"
            )
        if max_tokens is None:
            return min(DEFAULT_MAX_TOKENS, room)
        if max_tokens > room:
            raise ContextOverflow(
                f"the prompt has {num_prompt} tokens and the context {self._max_context}, so max_tokens can be at most "
                f"{room}; it is {max_tokens}"
            )
        return max_tokens

    def add(self, chat: Chat) -> None:
        """Put `chat` at the end of its client's waiting line."""
        self._waiting.setdefault(chat.client, deque()).append(chat)

    def remove(self, chat: Chat) -> None:
        """Forget `chat` and return its room in the cache."""
        if chat.lease is not None:
            self._running.remove(chat)
            chat.leave(self._kv_cache.block_size)
            return
        line = self._waiting[chat.client]
        line.remove(chat)
        if not line:
            del self._waiting[chat.client]

    def next_waiting(self) -> Chat | None:
        """The chat to admit next, or None while as many run as may."""
        if not self._waiting or self.num_running >= self._settings.max_running:
            return None
        return next(iter(self._waiting.values()))[0]

    def admit(self, chat: Chat) -> bool:
        """Give `chat`, the next waiting one, its room in the cache, if there is enough; say whether there was.

        Raises `InternalError` if there is not although nothing runs.
        """
        # The last token of a prompt always runs: its logits are wanted.
        block_size = self._kv_cache.block_size
        keys = chat.log.keys(block_size, (chat.log.num_prompt - 1) // block_size)
        lease = self._kv_cache.lease(chat.max_context, keys, chat.log.sources(block_size))
        if lease is None:
            if not self._running and not self.lent:
                free, room = self._kv_cache.free_tokens, self._kv_cache.max_tokens
                raise InternalError(
                    f"no chat runs, yet only {free} of the KV cache's {room} tokens are free and "
                    f"{chat.max_context} are needed; a lease was not returned"
                )
            return False
        client, line = self._waiting.popitem(last=False)
        line.popleft()
        if line:
            self._waiting[client] = line  # behind the others
        chat.take(lease)
        self._running.append(chat)
        return True

    def plan(self) -> Plan:
        """The work of the next step. The chat that gets a vision run or a chunk goes to the end of the line."""
        decoding = tuple((chat, chat.num_next) for chat in self._running if chat.phase is Phase.DECODE)
        only_decode = Plan(None, decoding, num_decoding=len(decoding))
        if decoding and self._owed_s > 0:
            return only_decode
        others = [chat for chat in self._running if chat.phase is not Phase.DECODE]
        begun = next((chat for chat in others if _is_being_encoded(chat)), None)
        chat = next((chat for chat in others if chat.phase is not Phase.ENCODE or _may_encode(chat, begun)), None)
        if chat is None:
            return replace(only_decode, wait_for=others[0] if others and not decoding else None)
        self._running.remove(chat)
        self._running.append(chat)
        if chat.phase is Phase.ENCODE:
            return replace(only_decode, encode=chat)
        chunk = min(chat.num_next, self._settings.shared_chunk or chat.num_next) if decoding else chat.num_next
        return replace(only_decode, shares=(*decoding, (chat, chunk)))

    def took(self, plan: Plan, seconds: float) -> None:
        """Count what the step of `plan` took: those that decode are owed a share of it, and got what a token takes."""
        if not plan.num_decoding:
            self._owed_s = 0.0
            return
        got_s = 0.0
        if plan.decodes_only:
            got_s = seconds
        elif self._alone[0] == plan.num_decoding:
            got_s = self._alone[1]
        # Good for one step with others: a slow moment must not count for longer.
        self._alone = (plan.num_decoding, seconds) if plan.decodes_only else (0, 0.0)
        self._owed_s = max(0.0, self._owed_s + seconds * _DECODING_SHARE - got_s)


def _is_being_encoded(chat: Chat) -> bool:
    media = chat.log.next_media
    return media is not None and media.encoding is not None


def _may_encode(chat: Chat, begun: Chat | None) -> bool:
    """Whether the pixels of its next image are there, and the encoder is not in the middle of another chat's."""
    media = chat.log.next_media
    return media is not None and media.ready and begun in (None, chat)
