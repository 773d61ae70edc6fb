"""The background thread of a client: it owns the socket, keeps the heartbeat going and routes what arrives.

Both clients use it; the decisions are `ClientCore`'s. All methods may be called from any thread.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

import zmq

from edge_runtime.engine.events import Delta, Failed
from edge_runtime.errors import ConnectionLost
from edge_runtime.serving import messages as wire
from edge_runtime.serving.address import check_address
from edge_runtime.serving.client_core import ClientCore, Reply, Timeouts
from edge_runtime.serving.connection import Connection
from edge_runtime.serving.wakeup import Wakeup

logger = logging.getLogger(__name__)

Deliver = Callable[[Reply], None]
"""Called on the link's thread with each reply of a request; must not block or raise."""


class Link:
    """A lasting link to one address: connects at the first request, and anew at the first one after a loss."""

    def __init__(self, address: str, timeouts: Timeouts) -> None:
        """Check the address; raises `BadParameter`. Nothing is sent yet."""
        self._address = check_address(address, wildcard_port=False)
        self._core = ClientCore(address, timeouts)
        self._wakeup = Wakeup()
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._deliver: dict[str, Deliver] = {}
        self._connection: Connection | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._closed = False

    def start(self, request_id: str, frames: Sequence[bytes], deliver: Deliver) -> None:
        """Send a request; `deliver` gets its replies, the last one a `Finished`, `Failed` or `InfoReply`.

        Raises `ConnectionLost` after `close`.
        """
        with self._lock:
            if self._closed:
                raise ConnectionLost("this client is closed; make a new one")
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="edge-client", daemon=True)
                self._thread.start()
            self._do(partial(self._start, request_id, frames, deliver))

    def cancel(self, request_id: str) -> None:
        """Ask the server to stop a request; its ending is still delivered."""
        self._do(partial(self._send, wire.Cancel(id=request_id)))

    def forget(self, request_id: str) -> None:
        """Stop a request if it is in flight, and deliver nothing more of it."""
        self._do(partial(self._forget, request_id))

    def close(self) -> None:
        """Fail what is in flight and disconnect, by which the server notices. Idempotent; waits for the thread."""
        with self._lock:
            self._closed = True
            thread = self._thread
        self._wakeup.set()
        if thread is None:
            self._wakeup.close()
        elif thread is not threading.current_thread():
            thread.join()

    # ---- on the link's thread --------------------------------------------------------------------------------

    def _do(self, command: Callable[[], None]) -> None:
        self._commands.put(command)
        self._wakeup.set()

    def _run(self) -> None:
        try:
            while not self._closed:
                self._wait()
                self._wakeup.clear()
                while not self._commands.empty():
                    self._commands.get()()
                self._read()
                self._tick()
        except Exception:
            logger.exception("the client's thread failed")
        finally:
            with self._lock:
                self._closed = True
            while not self._commands.empty():  # a request that came just before `close` must end as well
                self._commands.get()()
            self._lose("the client was closed")
            self._wakeup.close()

    def _wait(self) -> None:
        poller = zmq.Poller()
        poller.register(self._wakeup.fileno(), zmq.POLLIN)
        if self._connection is not None:
            poller.register(self._connection.socket, zmq.POLLIN)
            poller.register(self._connection.monitor, zmq.POLLIN)
        next_tick_s = self._core.next_tick_s()
        poller.poll(None if next_tick_s is None else max(0, int((next_tick_s - time.monotonic()) * 1000) + 1))

    def _start(self, request_id: str, frames: Sequence[bytes], deliver: Deliver) -> None:
        if self._connection is None:
            self._connection = Connection(self._address)
        self._deliver[request_id] = deliver
        self._core.begin(request_id, time.monotonic())
        if not self._connection.send(frames):
            self._core.forget(request_id)
            self._route([Failed(request_id, ConnectionLost(f"the server at {self._address} takes no messages"))])

    def _send(self, message: wire.ClientMessage) -> None:
        if self._connection is not None:
            self._connection.send([wire.encode(message)])

    def _forget(self, request_id: str) -> None:
        self._deliver.pop(request_id, None)
        if self._core.forget(request_id):
            self._send(wire.Cancel(id=request_id))

    def _read(self) -> None:
        if self._connection is None:
            return
        ended = self._connection.ended()  # asked first: what arrived before the end is then read below
        for frames in self._connection.receive():
            self._route(self._core.receive(frames, time.monotonic()))
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
        self._route(self._core.lose(what))
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _route(self, replies: Sequence[Reply]) -> None:
        for reply in replies:
            request_id = reply.id if isinstance(reply, wire.InfoReply) else reply.request_id
            deliver = self._deliver.get(request_id) if isinstance(reply, Delta) else self._deliver.pop(request_id, None)
            if deliver is not None:
                deliver(reply)
