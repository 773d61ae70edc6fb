"""The server: requests from the socket to the engine thread, events back. docs/protocol.md has the rules it keeps.

One loop in one thread waits for four things: messages of clients, events of the engine, ended connections, and the
next heartbeat. It never blocks on a client, and every request it has read ends in exactly one `Finished` or `Failed`.

    clients ──ROUTER──> Server._receive ──> EngineThread ──> engine.step()
            <──ROUTER── Connections.deliver <──   events    <──
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from functools import partial

import zmq
from msgspec import structs

from edge_runtime.engine.engine import Engine
from edge_runtime.engine.events import Failed
from edge_runtime.engine.kept_sessions import KeptSessions
from edge_runtime.engine.thread import EngineThread
from edge_runtime.errors import EdgeError, InternalError, ProtocolError, ShuttingDown
from edge_runtime.serving import messages as wire
from edge_runtime.serving.connections import Connections, Keep, Tally
from edge_runtime.serving.conversion import event_to_wire, request_from_wire, session_to_wire
from edge_runtime.serving.session_ops import SessionOps
from edge_runtime.serving.settings import ServerSettings
from edge_runtime.serving.sockets import Router, Wakeup
from edge_runtime.serving.summary import Summary

logger = logging.getLogger(__name__)

_MESSAGES_PER_TURN = 32
"""Messages read before the engine's events get their turn."""
_LAST_MESSAGES = 1000
"""Messages still read, and refused, when the server stops."""
_HASTE = 0.1
"""Share of the heartbeat's interval after which the clients of ended connections are looked for."""
_ENGINE_STOP_S = 5.0
"""How long the engine may take to notice a cancel, or to end its last step, before it is left behind."""
_KEEPING_S = 5.0
"""How long sessions may be saved at the end, where answers have taken the time for it."""
_FAREWELL_S = 1.0
"""How long slow clients may take at the end to make room for the endings that they have not taken."""
_SHUTTING_DOWN = "the server is shutting down; try again when it is back"


class Server:
    """A bound address, then (`run`) a server. Everything but `stop` belongs to one thread."""

    def __init__(self, settings: ServerSettings) -> None:
        """Bind, so that a taken address is known before a model is loaded.

        Raises `BadParameter`, `AddressInUse` or `ServerError`.
        """
        self._settings = settings
        self._router = Router(settings)
        try:
            self._kept = None if settings.keep_sessions is None else KeptSessions(settings.keep_sessions)
        except BaseException:
            self._router.close()
            raise
        self._wakeup = Wakeup()
        self._num_stops = 0
        self._stop_deadline_s: float | None = None
        self._last_call = False
        self._somebody_left = False
        self.tally = Tally()
        self._log = Summary(logger)

    @property
    def address(self) -> str:
        """Where the server listens, with the port that a `*` became."""
        return self._router.address

    def stop(self) -> None:
        """Ask `run` to end: finish what is in flight, at the second call fail it. For any thread or signal handler."""
        self._num_stops += 1
        self._wakeup.set()

    def waker(self) -> int:
        """A new descriptor: a byte written to it has `run` look whether it was told to stop. For `set_wakeup_fd`."""
        return self._wakeup.writer()

    def close(self) -> None:
        """Release the address. `run` does so itself."""
        self._router.close()
        self._wakeup.close()
        if self._kept is not None:
            self._kept.close()

    def run(self, engine: Engine, model: wire.ModelInfo) -> None:
        """Serve until `stop`. Raises `InternalError` if the engine fails; all requests have their `Failed` by then."""
        self._model = model
        self._engine = EngineThread(engine, self._wakeup.set)
        self._sessions = engine.sessions
        folder = None if self._kept is None else self._kept.folder
        self._session_ops = SessionOps(engine, self._engine, self._wakeup.set, self.address, folder)
        self._connections = Connections(self._router, self._engine.cancel, self.tally, self._log)
        try:
            self._engine.start()  # a socket left open here would hang whoever collects the garbage
            if self._kept is not None:
                self._kept.bring_back(self._session_ops.files)
            self._serve()
            self._leave()
        finally:
            self._log.flush(None)
            self.close()

    # ---- the loop --------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        poller = zmq.Poller()
        for source in (self._router.socket, self._router.monitor, self._wakeup.fileno()):
            poller.register(source, zmq.POLLIN)
        last_heartbeat_s = 0.0
        while not self._done():
            poller.poll(self._patience_ms(last_heartbeat_s))
            self._wakeup.clear()
            engine_alive = self._engine.alive  # asked before its events are taken, so that its last words count
            for event in self._engine.take_events():
                self._connections.deliver(event)
            if not engine_alive:
                return
            for job_id, outcome in self._session_ops.jobs.take_done():
                self._connections.answer(job_id, outcome)
            self._receive(_MESSAGES_PER_TURN)
            now_s = time.monotonic()
            self._watch_connections()
            if now_s >= last_heartbeat_s + self._heartbeat_interval_s():
                self._connections.heartbeat(now_s, self._settings.client_timeout_s)
                self._somebody_left = False
                last_heartbeat_s = now_s
            self._log.flush(now_s)
            self._wind_down(now_s)

    def _watch_connections(self) -> None:
        before = self._router.num_turned_away
        self._somebody_left |= self._router.watch_connections()
        if self._router.num_turned_away > before:
            self._log.note(
                logging.WARNING,
                "connection turned away",
                "turned a connection away: this process has hardly any descriptors left; raise its limit "
                "(ulimit -n, LimitNOFILE= of a systemd unit)",
            )

    def _heartbeat_interval_s(self) -> float:
        """Sooner when somebody has left, because only a message to each client shows who it was; but not for each."""
        return self._settings.heartbeat_s * (_HASTE if self._somebody_left else 1.0)

    def _patience_ms(self, last_heartbeat_s: float) -> int | None:
        """How long there is nothing to do unless something happens; None: for ever."""
        due_s = [last_heartbeat_s + self._heartbeat_interval_s()] if self._connections.all() else []
        if self._log.due_s is not None:
            due_s.append(self._log.due_s)
        if self._stop_deadline_s is not None:
            due_s.append(self._stop_deadline_s)
        return max(0, int((min(due_s) - time.monotonic()) * 1000) + 1) if due_s else None

    # ---- messages of clients ---------------------------------------------------------------------------------

    def _receive(self, limit: int) -> None:
        for identity, frames in self._router.receive(limit):
            connection = self._connections.find(identity)
            if connection is not None:
                connection.last_heard_s = time.monotonic()
            try:
                self._handle(identity, frames)
            except EdgeError as error:
                self._refuse(identity, frames, error)
            except Exception as error:
                logger.exception("a message of %d frames could not be handled", len(frames))
                self._refuse(identity, frames, InternalError(f"{type(error).__name__}; the server's log has more"))

    def _handle(self, identity: bytes, frames: list[memoryview]) -> None:
        self._settings.limits.check_frames(frames)
        try:
            message = wire.decode_client_message(frames[0])
        except ValueError as error:
            raise ProtocolError(f"the header is not a message of docs/protocol.md: {error}") from error
        if isinstance(message, (wire.Generate, wire.Session)):
            if self._num_stops:
                raise ShuttingDown(_SHUTTING_DOWN)
            self._settings.limits.check_parts(message.messages)
        match message:
            case wire.Generate():
                self._accept(identity, message, frames[1:])
            case wire.Cancel():
                self._cancel(identity, message)
            case wire.Session():
                self._session(identity, message, frames[1:])
            case wire.Ping():
                self._connections.post(identity, wire.Pong())
            case wire.Info():
                self._connections.post(identity, self._info(message.request_id), keep=Keep.REFUSAL)

    def _info(self, request_id: str) -> wire.InfoReply:
        return wire.InfoReply(
            request_id=request_id,
            protocol=wire.PROTOCOL_VERSION,
            limits=self._settings.limits,
            in_flight=self._connections.num_in_flight,
            cache=self._engine.cache_info,
            sessions=self._sessions.num_sessions,
            session_bytes=self._sessions.num_bytes,
            max_session_bytes=self._sessions.limits.max_bytes,
            **structs.asdict(self._model),
        )

    def _accept(self, identity: bytes, message: wire.Generate, frames: list[memoryview]) -> None:
        """Put a request into the queue, or raise why not."""
        num_bytes = sum(frame.nbytes for frame in frames)
        self._connections.check_room(identity, message.request_id, num_bytes, self._settings.limits)
        generation = request_from_wire(message, frames)
        request = self._connections.accept(identity, message.request_id, num_bytes, time.monotonic())
        self._engine.submit(replace(generation, request_id=request.engine_id), client=identity)
        self._connections.accepted(request, self._settings.client_timeout_s)

    def _session(self, identity: bytes, message: wire.Session, frames: list[memoryview]) -> None:
        """Do what is asked for a session, or raise why not."""
        state = self._session_ops.do(message, frames, identity, partial(self._enter, identity, message.request_id))
        if state is not None:
            self._connections.post(identity, session_to_wire(state, message.request_id), keep=Keep.REFUSAL)

    def _enter(self, identity: bytes, client_id: str) -> str:
        """Take what will be answered later into what is in flight, or raise why not; returns its engine id."""
        self._connections.check_room(identity, client_id, 0, self._settings.limits)
        request = self._connections.accept(identity, client_id, 0, time.monotonic())
        self._connections.accepted(request, self._settings.client_timeout_s)
        return request.engine_id

    def _cancel(self, identity: bytes, message: wire.Cancel) -> None:
        """Cancelling something unknown is no error: the request may just have ended."""
        connection = self._connections.find(identity)
        if connection is not None and message.request_id in connection.in_flight:
            self._engine.cancel(connection.in_flight[message.request_id].engine_id)

    def _refuse(self, identity: bytes, frames: list[memoryview], error: EdgeError) -> None:
        """Answer a message that led to nothing, under its id if that is its own."""
        self.tally.refused += 1
        self._log.note(logging.INFO, f"refused, {error.code}", f"refused a message: {error}")
        readable = frames and frames[0].nbytes <= self._settings.limits.max_header_bytes
        found = wire.peek(frames[0]) if readable else wire.Peek()
        connection = self._connections.find(identity)
        # A `Failed` with an id ends that request: never one that is in flight, nor what a broken cancel is about.
        is_own = found.type in ("generate", "info", "session") and not (
            connection and found.request_id in connection.in_flight
        )
        ending = event_to_wire(Failed("", error), found.request_id if is_own else "")
        self._connections.post(identity, ending, keep=Keep.REFUSAL)

    # ---- the end ---------------------------------------------------------------------------------------------

    def _wind_down(self, now_s: float) -> None:
        """After `stop`: set the deadline, and when it has passed (or at a second `stop`) cancel what is left."""
        if not self._num_stops:
            return
        if self._stop_deadline_s is None:
            logger.info("stopping, with %d requests in flight", self._connections.num_in_flight)
            self._stop_deadline_s = now_s + self._settings.shutdown_grace_s
        if not self._last_call and (self._num_stops > 1 or now_s >= self._stop_deadline_s):
            self._last_call = True
            self._stop_deadline_s = now_s + _ENGINE_STOP_S
            for request in self._connections.requests():
                self._connections.give_up(request, ShuttingDown(_SHUTTING_DOWN))

    def _done(self) -> bool:
        """Whether to leave the loop: asked to stop, and nothing in flight or no time left for it."""
        if self._stop_deadline_s is None:
            return False
        return not self._connections.num_in_flight or (self._last_call and time.monotonic() >= self._stop_deadline_s)

    def _leave(self) -> None:
        """Answer whatever is still open, then stop the engine."""
        engine_failed = not self._engine.alive
        error: EdgeError = ShuttingDown(_SHUTTING_DOWN)
        if engine_failed:
            error = InternalError("the engine failed; the server's log has the reason")
        self._num_stops += 1  # from here on every request is refused
        for request in self._connections.requests():
            self._connections.deliver(Failed(request.engine_id, error))
        self._receive(_LAST_MESSAGES)
        deadline_s = time.monotonic() + _FAREWELL_S
        while self._connections.flush() and time.monotonic() < deadline_s:
            time.sleep(0.02)
        self._session_ops.jobs.stop()
        if engine_failed:
            raise error
        self._keep_sessions()
        if not self._engine.stop(_ENGINE_STOP_S):
            logger.error("the engine did not end its last step within %g s and is left behind", _ENGINE_STOP_S)

    def _keep_sessions(self) -> None:
        if self._kept is not None:
            until_s = max(self._stop_deadline_s or 0.0, time.monotonic() + _KEEPING_S)
            self._engine.max_call_s, num_stops = _ENGINE_STOP_S, self._num_stops
            self._kept.save(self._session_ops.files, until_s, lambda: self._num_stops > num_stops)
