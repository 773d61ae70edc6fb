"""The engine: requests in, events out. Read this file first.

    engine = Engine(runner, EngineSettings())
    engine.submit(request)
    while engine.has_work:
        for event in engine.step():   # Delta, Delta, ..., then exactly one Finished or Failed per request
            ...

A step is schedule -> run -> postprocess: the scheduler picks who runs what (`scheduler.py`), the runner runs it
(`model_runner.py`: images, vision encoder, decoder), and the logits become tokens, text and events (`drawing.py`). What
a chat is in between lies in `chat.py`.

One thread owns the engine; only `prepare` and `cancel` may be called from another: what a request takes before its
first step, template, tokens and headers of images, need not hold up those that run. Knows nothing of sockets, graphs or
templates.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from edge_runtime.engine.cache_info import CacheInfo, Found
from edge_runtime.engine.chat import Chat, Clock, Phase
from edge_runtime.engine.control import Control
from edge_runtime.engine.drawing import Drawing
from edge_runtime.engine.events import Event, Failed, Finished
from edge_runtime.engine.faults import internal_unless_ours
from edge_runtime.engine.model_runner import ModelRunner
from edge_runtime.engine.request import GenerationRequest
from edge_runtime.engine.saving import Saving
from edge_runtime.engine.scheduler import Plan, Scheduler
from edge_runtime.engine.session import Sessions
from edge_runtime.engine.settings import EngineSettings
from edge_runtime.engine.transcript import Offered, Transcript
from edge_runtime.errors import BadParameter, Cancelled, EdgeError, InternalError
from edge_runtime.model.cancellation import CancelToken
from edge_runtime.model.decoder import Logits

_log = logging.getLogger(__name__)

_MEDIA_WAIT_S = 0.02
"""How long a step with nothing else to do waits for an image to be decoded; cancels and new requests come after it."""


class Engine:
    """Answers several chats at a time with one model. Every submitted request ends in one `Finished` or `Failed`."""

    def __init__(
        self,
        runner: ModelRunner,
        settings: EngineSettings,
        sessions: Sessions | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """The engine has `runner` and its KV cache to itself; `clock` tells in seconds what steps and runs take."""
        self.sessions = Sessions() if sessions is None else sessions
        """Conversations that requests may go on with."""
        self._runner = runner
        self._clock = clock
        self._settings = settings
        self._scheduler = Scheduler(runner.kv_cache, runner.max_context, settings)
        self.saving = Saving(runner, self.sessions, self._scheduler)
        """What of it goes into files of sessions."""
        self._drawing = Drawing(runner, speculates=settings.speculates)
        self._chats: dict[str, Chat] = {}
        self._events: list[Event] = []  # not handed out yet
        self._found = Found()
        self.cache_info: CacheInfo = self._found.info(runner, 0, 0)
        """As of the last step. For any thread: it is replaced, never changed."""

    @property
    def has_work(self) -> bool:
        """Whether `step` has anything to do."""
        return bool(self._chats or self._events)

    @property
    def num_running(self) -> int:
        """Chats that hold room in the KV cache."""
        return self._scheduler.num_running

    @property
    def num_waiting(self) -> int:
        """Chats that wait for it."""
        return self._scheduler.num_waiting

    def submit(self, request: GenerationRequest) -> None:
        """Take on a request: `prepare` and `add`. If this raises, it was not taken on and will have no events."""
        self.add(self.prepare(request, CancelToken()))

    def prepare(self, request: GenerationRequest, cancel: CancelToken) -> Chat:
        """All that can be done for a request before it is taken on; `cancel` is the chat's from now on. For any thread.

        Raises `Overloaded` if the queue is full, `ContextOverflow` if prompt and answer cannot fit (nothing was
        computed), `BadPrompt` or `BadImage` for what the model cannot take, `Cancelled`; and as `Sessions.begin`. What
        it supersedes in its session is cancelled at the end, where all this has not happened.
        """
        clock = Clock(submitted_s=time.perf_counter())
        self._scheduler.check_room()
        return self.sessions.prepared(request, cancel, partial(self._prepare, clock, cancel))

    def _prepare(self, clock: Clock, cancel: CancelToken, request: GenerationRequest) -> Chat:
        """As `prepare`, with all that was said before in the session of `request`."""
        with internal_unless_ours("preparing a prompt"):
            log = self._runner.prepare(request, cancel)
            max_tokens = self._scheduler.answer_length(log.num_prompt, log.image_tokens, request.options.max_tokens)
            call_ids, options = self._runner.tool_call_token_ids, request.options
            tools = Offered.of(call_ids, options.offered_tools)
            transcript = Transcript(self._runner.think_token_ids, log.starts_in_reasoning, options.stop, tools)
            grammar = self._runner.grammars.of(options, call_ids)
            control = Control(transcript, request.options, grammar, self._runner.thought_tokens)
            self._scheduler.check_room()  # by now; what this supersedes is cancelled next
            # The pictures stay with `log` alone, which drops each as soon as it is encoded.
            kept = request.without_messages(max_tokens)
            return Chat(kept, log, control, clock, cancel, self._settings.prefill_chunk)

    def add(self, chat: Chat, client: Hashable = None) -> None:
        """Take on what `prepare` gave. If this raises, it was not taken on and will have no events.

        Clients take turns in waiting for room in the KV cache.

        Raises `Overloaded` if the queue is full by now, `BadParameter` if the request's id is in use.
        """
        request_id = chat.request.request_id
        with self.sessions.unless_refused(chat.request):
            if request_id in self._chats:
                raise BadParameter(f"a request with the id {request_id!r} is in flight; give each its own")
            self._scheduler.check_room()
        self._chats[request_id] = chat
        chat.client = client
        self._drawing.begin(chat)
        self._scheduler.add(chat)

    def cancel(self, request_id: str) -> None:
        """Stop a request, also inside a running graph; `step` then gives its `Failed(Cancelled)`.

        Safe from any thread. A request that has ended, or never was, is ignored.
        """
        chat = self._chats.get(request_id)
        if chat is not None:
            chat.cancel.cancel()

    def step(self) -> list[Event]:
        """Do the next piece of work of every chat whose turn it is; return what there is to say."""
        self._end_cancelled()
        plan = self._schedule()
        self._tell()
        started_s = self._clock()
        results = self._run(plan)
        self._postprocess(results)
        self._scheduler.took(plan, self._clock() - started_s)
        self._tell()
        events, self._events = self._events, []
        return events

    def generate(self, request: GenerationRequest) -> Iterator[Event]:
        """Submit `request` and step until it ends; yield its events. Closing the iterator cancels the request.

        Raises at the first event what `submit` raises. Events of other requests are kept for the next `step`.
        """
        self.submit(request)
        ended = False
        try:
            while not ended:
                for event in self._own_events(request.request_id, self.step()):
                    ended = isinstance(event, (Finished, Failed))
                    yield event
        finally:
            if not ended:
                self.cancel(request.request_id)
                self._end_cancelled()
                events, self._events = self._events, []
                self._own_events(request.request_id, events)  # those are dropped: nobody asks for them any more

    def _schedule(self) -> Plan:
        """Admit waiting chats while there is room, then choose the work of this step."""
        while (chat := self._scheduler.next_waiting()) is not None:
            with self._failing(chat):
                if not self._scheduler.admit(chat):
                    break
                chat.clock.admitted_s = time.perf_counter()
                self._found.admitted(chat)
                self._runner.media.start(chat.log)
        return self._scheduler.plan()

    def _run(self, plan: Plan) -> list[tuple[Chat, Logits | None]]:
        """Encode a part of an image, then run the decoder; return the logits of each chat that ran."""
        if plan.wait_for is not None:
            self._runner.media.wait(plan.wait_for.log, _MEDIA_WAIT_S)
        if plan.encode is not None:
            with self._failing(plan.encode):
                spent = self._runner.media.advance(plan.encode.log, plan.encode.cancel)
                plan.encode.clock.add(spent)
                plan.encode.num_vision_reused += spent.is_reused
                self._found.vision_cached += spent.is_reused
        self._drawing.guess(plan)
        results = self._forward(plan.shares) if plan.shares else []
        for chat, _ in results:
            with self._failing(chat):
                chat.settle(self._runner.kv_cache.block_size)
        return results

    def _postprocess(self, results: Sequence[tuple[Chat, Logits | None]]) -> None:
        """Turn logits into tokens, text and events; end the chats that are done or were cancelled."""
        self._end_cancelled()
        for chat, logits in results:
            if chat.request.request_id in self._chats and chat.phase is Phase.DECODE:
                with self._failing(chat):
                    self._advance(chat, logits)
        if not self._chats:
            self._scheduler.check_idle()

    def _advance(self, chat: Chat, logits: Logits | None) -> None:
        """Give `chat` its next tokens; end it after the last one."""
        if logits is None:
            if chat.num_cached == len(chat.log):
                raise InternalError("the runner gave no logits for a chat that is not cancelled")
            return  # more had to come than a run takes
        deltas, reason = self._drawing.advance(chat, logits)
        self._events += deltas
        if reason is not None:
            self._runner.remember(chat.log)
            self._end(chat, chat.finish(reason))

    def _forward(self, shares: Sequence[tuple[Chat, int]]) -> list[tuple[Chat, Logits | None]]:
        """Run the decoder for all `shares`; if that fails, chat by chat, so that only the one at fault ends."""
        if len(shares) == 1:
            with self._failing(shares[0][0]):
                return self._forward_once(shares)
            return []
        before = [chat.checkpoint() for chat, _ in shares]
        try:
            return self._forward_once(shares)
        except Exception:  # noqa: BLE001 (the chat at fault will raise it again, alone)
            _log.exception("a run of %d chats failed; it is repeated chat by chat", len(shares))
        results: list[tuple[Chat, Logits | None]] = []
        for share, checkpoint in zip(shares, before, strict=True):
            share[0].restore(checkpoint)
            results += self._forward([share])
        return results

    def _forward_once(self, shares: Sequence[tuple[Chat, int]]) -> list[tuple[Chat, Logits | None]]:
        """One call of the runner for `shares`: (chat, number of its tokens)."""
        prefilling = [chat for chat, _ in shares if chat.phase is Phase.PREFILL]
        steps = [chat.step(num_tokens) for chat, num_tokens in shares]
        wanted = [chat.num_cached + len(step.token_ids) for (chat, _), step in zip(shares, steps, strict=True)]
        started_s, run_s = time.perf_counter(), self._clock()
        outputs = self._runner.forward(steps)
        self._drawing.took(steps, self._clock() - run_s, decodes_only=not prefilling)
        for chat in prefilling:
            chat.clock.prefill_ms += 1e3 * (time.perf_counter() - started_s)
        for (chat, _), length in zip(shares, wanted, strict=True):
            if chat.num_cached != length and not chat.cancel.cancelled:
                raise InternalError(f"after a run {chat.num_cached} tokens are cached, not {length}")
        return [(chat, logits) for (chat, _), logits in zip(shares, outputs, strict=True)]

    def _own_events(self, request_id: str, events: Sequence[Event]) -> list[Event]:
        """The events of one request; the others wait for the next `step`."""
        self._events += [event for event in events if event.request_id != request_id]
        return [event for event in events if event.request_id == request_id]

    def _tell(self) -> None:
        self.cache_info = self._found.info(self._runner, self.num_running, self.num_waiting)

    def _end_cancelled(self) -> None:
        """End the chats whose cancel token is set."""
        for chat in [chat for chat in self._chats.values() if chat.cancel.cancelled]:
            self._end(chat, [Failed(chat.request.request_id, Cancelled(chat.cancel.reason))])

    @contextmanager
    def _failing(self, chat: Chat) -> Iterator[None]:
        """An error inside the block ends `chat` with it, and only `chat`."""
        try:
            with internal_unless_ours(f"request {chat.request.request_id!r}"):
                yield
        except Cancelled:
            self._end(chat, [Failed(chat.request.request_id, Cancelled(chat.cancel.reason))])
        except EdgeError as error:
            self._end(chat, [Failed(chat.request.request_id, error)])

    def _end(self, chat: Chat, last_events: Sequence[Event]) -> None:
        """Forget `chat`, return its room in the cache, and say its last events. Does nothing the second time."""
        if self._chats.pop(chat.request.request_id, None) is not None:
            self._events += last_events
            answer = next((event.message for event in last_events if isinstance(event, Finished)), None)
            if not self.sessions.end(chat.request, answer) and answer is not None:
                self._events[-1] = Failed(chat.request.request_id, Cancelled(chat.cancel.reason))
            self._found.ended(chat)
            self._scheduler.remove(chat)
            try:
                self._runner.media.release(chat.log)
            except Exception:  # noqa: BLE001 (what it held may be lost, but no other chat ends for it)
                _log.exception("the images of request %r could not be released", chat.request.request_id)
