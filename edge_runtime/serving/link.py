"""The background thread of a client: it owns the socket, keeps the heartbeat going and routes what arrives.

Both clients use it; the decisions are `ClientCore`'s. All methods may be called from any thread, and after a fork: the
child has no such thread, so its link begins anew. Whoever waits for a reply gets one, whatever fails.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from functools import partial

import zmq

from edge_runtime.engine.events import Delta, Failed
from edge_runtime.errors import BadParameter, ConnectionLost, EdgeError
from edge_runtime.serving import messages as wire
from edge_runtime.serving.address import check_address
from edge_runtime.serving.client_core import ClientCore, Reply, Timeouts
from edge_runtime.serving.outgoing import Outgoing
from edge_runtime.serving.sockets import Dealer, Wakeup

logger = logging.getLogger(__name__)

Deliver = Callable[[Reply], None]
"""Called on the link's thread with each reply of a request; must not block or raise."""
_LATE_S = 1.0
"""A thread that wakes so much later than it asked for was stopped (SIGSTOP, a debugger, a suspended machine)."""


class Link:
    """A lasting link to one address: connects at the first request, and anew at the first one after a loss."""

    def __init__(self, address: str, timeouts: Timeouts) -> None:
        """Check the address; raises `BadParameter`. Nothing is opened or sent yet."""
        if not isinstance(timeouts, Timeouts):
            raise BadParameter(f"timeouts is of type {type(timeouts).__name__}; wanted Timeouts(connect_s=...)")
        self._address = check_address(address, wildcard_port=False)
        self._timeouts = timeouts
        self._closed = False
        self._begin()
        _links.add(self)

    def _begin(self) -> None:
        """The state of a link that has not been used."""
        self._core = ClientCore(self._address, self._timeouts)
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._deliver: dict[str, Deliver] = {}
        self._connection: Dealer | None = None
        self._thread: threading.Thread | None = None
        self._wakeup: Wakeup | None = None
        self._lock = threading.Lock()

    def start(self, request_id: str, outgoing: Outgoing, deliver: Deliver) -> None:
        """Send a request; `deliver` gets its replies, the last one a `Finished`, `Failed` or `InfoReply`.

        Raises `ConnectionLost` after `close`, and where the system gives us no thread or descriptor.
        """
        with self._lock:
            if self._closed:
                raise ConnectionLost("this client is closed; make a new one")
            if self._thread is None:
                self._start_thread()
            self._do(partial(self._start, request_id, outgoing, deliver))

    def cancel(self, request_id: str) -> None:
        """Ask the server to stop a request; its ending is still delivered."""
        self._do(partial(self._cancel, request_id))

    def forget(self, request_id: str) -> None:
        """Stop a request if it is in flight, and deliver nothing more of it."""
        self._do(partial(self._forget, request_id))

    def close(self) -> None:
        """Fail what is in flight and disconnect, by which the server notices. Idempotent; waits for the thread."""
        with self._lock:
            self._closed = True
            thread, wakeup = self._thread, self._wakeup
        if wakeup is not None:
            wakeup.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def begin_anew_after_fork(self) -> None:
        """In the child of a fork: the thread has stayed with the parent, and so has the connection."""
        deliver = self._deliver
        self._begin()
        for request_id, waiting in deliver.items():
            waiting(Failed(request_id, ConnectionLost("the process was forked; send the request again in the child")))

    def _start_thread(self) -> None:
        wakeup = None
        try:
            wakeup = Wakeup()
            thread = threading.Thread(target=self._run, args=(wakeup,), name="edge-client", daemon=True)
            thread.start()
        except (OSError, RuntimeError) as error:
            if wakeup is not None:
                wakeup.close()
            raise ConnectionLost(f"cannot start a client of {self._address}: {error}; try again later") from error
        self._thread, self._wakeup = thread, wakeup

    def _do(self, command: Callable[[], None]) -> None:
        if self._wakeup is not None:
            self._commands.put(command)
            self._wakeup.set()

    # ---- on the link's thread --------------------------------------------------------------------------------

    def _run(self, wakeup: Wakeup) -> None:
        try:
            while not self._closed:
                self._turn(wakeup)
        except Exception:
            logger.exception("the client's thread failed")
        finally:
            with self._lock:
                self._closed = True
            self._lose("the client was closed")
            while not self._commands.empty():  # a request that came just before `close` must end as well
                self._commands.get()()
            wakeup.close()

    def _turn(self, wakeup: Wakeup) -> None:
        """Wait for news and deal with it. A failure costs the connection; without one it is raised."""
        try:
            self._wait(wakeup)
            wakeup.clear()
            while not self._commands.empty():
                self._commands.get()()
            self._read()
            self._tick()
        except Exception as error:
            if self._connection is None:
                raise
            logger.exception("the connection to %s failed", self._address)
            self._lose(f"the connection to {self._address} failed ({type(error).__name__}: {error})")

    def _wait(self, wakeup: Wakeup) -> None:
        poller = zmq.Poller()
        poller.register(wakeup.fileno(), zmq.POLLIN)
        if self._connection is not None:
            poller.register(self._connection.socket, zmq.POLLIN)
            poller.register(self._connection.monitor, zmq.POLLIN)
        started_s, due_s = time.monotonic(), self._core.next_tick_s()
        poller.poll(None if due_s is None else max(0, int((due_s - started_s) * 1000) + 1))
        if due_s is not None and (late_s := time.monotonic() - max(due_s, started_s)) > _LATE_S:
            self._core.postpone(late_s)  # what has arrived meanwhile is still to be read

    def _start(self, request_id: str, outgoing: Outgoing, deliver: Deliver) -> None:
        self._deliver[request_id] = deliver
        try:
            self._ask(request_id, outgoing)
        except EdgeError as error:
            failure = error
        except Exception as error:
            logger.exception("a request could not be sent to %s", self._address)
            failure = ConnectionLost(
                f"the request could not be sent to {self._address}: {type(error).__name__}: {error}"
            )
        else:
            return
        self._core.forget(request_id)
        self._route([Failed(request_id, failure)])

    def _ask(self, request_id: str, outgoing: Outgoing) -> None:
        if self._closed:
            raise ConnectionLost("the client was closed")
        if self._connection is None:
            self._connection = Dealer(self._address)
        if not self._connection.send(self._core.begin(request_id, time.monotonic(), outgoing)):
            raise ConnectionLost(f"the server at {self._address} takes no messages")

    def _cancel(self, request_id: str) -> None:
        self._core.cancel(request_id)
        self._send(wire.Cancel(request_id=request_id))

    def _send(self, message: wire.ClientMessage) -> None:
        if self._connection is not None:
            self._connection.send([wire.encode(message)])

    def _forget(self, request_id: str) -> None:
        self._deliver.pop(request_id, None)
        if self._core.forget(request_id):
            self._send(wire.Cancel(request_id=request_id))

    def _read(self) -> None:
        if self._connection is None:
            return
        ended = self._connection.ended()  # asked first: what arrived before the end is then read below
        for frames in self._connection.receive():
            self._route(self._core.receive(frames, time.monotonic()))
        for request_id, again in self._core.take_again():
            if not self._connection.send(again) and self._core.forget(request_id):
                error = ConnectionLost(f"the server at {self._address} takes no messages")
                self._route([Failed(request_id, error)])
        if ended:
            self._lose(f"the connection to {self._address} was lost")

    def _tick(self) -> None:
        now_s = time.monotonic()
        messages, replies = self._core.tick(now_s)
        for message in messages:
            self._send(message)
        self._route(replies)
        if self._core.server_is_silent(now_s):
            self._lose(f"the server at {self._address} does not answer")

    def _lose(self, what: str) -> None:
        connection, self._connection = self._connection, None
        self._route(self._core.lose(what))
        # A failure may have left some that the core knows nothing of any more; nobody may wait for ever.
        self._route([Failed(request_id, ConnectionLost(what)) for request_id in self._deliver])
        if connection is not None:
            with contextlib.suppress(zmq.ZMQError):
                connection.close()

    def _route(self, replies: Sequence[Reply]) -> None:
        for reply in replies:
            take = self._deliver.get if isinstance(reply, Delta) else self._deliver.pop
            deliver = take(reply.request_id, None)
            if deliver is not None:
                deliver(reply)


_links: weakref.WeakSet[Link] = weakref.WeakSet()


def _after_fork() -> None:
    for link in list(_links):
        link.begin_anew_after_fork()


os.register_at_fork(after_in_child=_after_fork)
