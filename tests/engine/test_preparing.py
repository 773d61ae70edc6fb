"""Requests are prepared one by one, clients in turn, and can be cancelled at any moment before they are taken."""

from __future__ import annotations

import queue
import threading

from edge_runtime.engine.request import GenerationRequest, SessionTurn
from edge_runtime.engine.thread import Preparing
from edge_runtime.errors import BadPrompt, Cancelled, InternalError
from edge_runtime.model.cancellation import CancelToken
from edge_runtime.model.conversation import Message, TextPart


class Bench:
    """What is prepared, in order; preparing "block" waits until `go` is set or the request is cancelled."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.begun, self.go = threading.Event(), threading.Event()
        self.delivered: queue.Queue[tuple[str, object]] = queue.Queue()
        self.preparing = Preparing(self.prepare, lambda request_id, result: self.delivered.put((request_id, result)))
        self.preparing.start()

    def prepare(self, request: GenerationRequest, cancel: CancelToken) -> str:
        (part,) = request.messages[0].content
        assert isinstance(part, TextPart)
        self.order.append(request.request_id)
        if part.text == "block":
            self.begun.set()
            with cancel.attach(self.go.set):
                assert self.go.wait(60)
            cancel.raise_if_cancelled()
        if part.text == "refuse":
            raise BadPrompt("no")
        if part.text == "break":
            raise ZeroDivisionError
        return f"prepared {request.request_id}"

    def put(self, client: str, request_id: str, text: str = "hello") -> None:
        self.preparing.put(client, GenerationRequest(request_id, (Message("user", (TextPart(text),)),)))

    def block(self) -> None:
        """Keep the thread busy, so that what is put now has to wait."""
        self.put("blocker", "blocker", "block")
        assert self.begun.wait(60)

    def next(self) -> tuple[str, object]:
        return self.delivered.get(timeout=60)


def test_clients_take_turns_and_each_has_its_requests_in_order() -> None:
    bench = Bench()
    bench.block()
    for i in range(4):
        bench.put("greedy", f"g{i}")
    for i in range(2):
        bench.put("modest", f"m{i}")
    bench.go.set()
    for _ in range(7):
        bench.next()
    assert bench.order == ["blocker", "g0", "m0", "g1", "m1", "g2", "g3"]


def test_work_waits_for_the_requests_of_its_client_before_it() -> None:
    bench = Bench()
    bench.block()
    assert not bench.preparing.has("a", "s")
    bench.preparing.put("a", GenerationRequest("1", (Message("user", "x"),), session=SessionTurn("s")))
    bench.preparing.put_work("a", "s", lambda: bench.order.append("work"))
    bench.put("a", "2")
    assert bench.preparing.has("a", "s")
    assert not bench.preparing.has("a", "other")
    assert not bench.preparing.has("b", "s")
    bench.preparing.cancel("1")  # who waits for it is not cancelled
    bench.go.set()
    for _ in range(3):
        bench.next()
    assert bench.order == ["blocker", "work", "2"]
    bench.preparing.put("a", GenerationRequest("3", (Message("user", "x"),), session=SessionTurn("s")))
    bench.next()
    bench.put("a", "4")
    bench.next()
    assert not bench.preparing.has("a", "s")


def test_what_is_in_hand_has_not_begun_for_sure() -> None:
    bench = Bench()
    request = GenerationRequest("1", (Message("user", "block"),), session=SessionTurn("s"))
    bench.preparing.put("a", request)
    assert bench.begun.wait(60)
    assert bench.preparing.has("a", "s")
    bench.go.set()
    bench.next()


def test_what_is_raised_is_delivered() -> None:
    bench = Bench()
    bench.put("a", "1", "refuse")
    bench.put("a", "2", "break")
    bench.put("a", "3")
    (_, refused), (_, broken), last = (bench.next() for _ in range(3))
    assert isinstance(refused, BadPrompt)
    assert isinstance(broken, InternalError)
    assert last == ("3", "prepared 3")


def test_a_cancel_while_it_waits_ends_a_request_unprepared() -> None:
    bench = Bench()
    bench.block()
    bench.put("a", "1")
    bench.put("a", "2")
    bench.preparing.cancel("1")
    request_id, result = bench.next()
    assert request_id == "1"
    assert isinstance(result, Cancelled)
    bench.go.set()
    assert [bench.next()[0] for _ in range(2)] == ["blocker", "2"]
    assert bench.order == ["blocker", "2"]


def test_a_cancel_reaches_what_is_being_prepared() -> None:
    bench = Bench()
    bench.block()
    bench.preparing.cancel("blocker")
    request_id, result = bench.next()
    assert request_id == "blocker"
    assert isinstance(result, Cancelled)


def test_a_cancel_between_delivery_and_taking_sets_the_token() -> None:
    tokens: list[CancelToken] = []
    delivered: queue.Queue[str] = queue.Queue()

    def prepare(request: GenerationRequest, cancel: CancelToken) -> None:
        tokens.append(cancel)

    preparing = Preparing(prepare, lambda request_id, _: delivered.put(request_id))
    preparing.start()
    for request_id in ("1", "2"):
        preparing.put(None, GenerationRequest(request_id, (Message("user", (TextPart("x"),)),)))
        assert delivered.get(timeout=60) == request_id
    preparing.taken("1")
    for request_id in ("1", "2", "unknown"):
        preparing.cancel(request_id)
    assert [token.cancelled for token in tokens] == [False, True]


def test_closing_cancels_what_is_in_hand_and_drops_the_rest() -> None:
    bench = Bench()
    bench.block()
    bench.put("a", "1")
    bench.preparing.close()
    request_id, result = bench.next()
    assert request_id == "blocker"
    assert isinstance(result, Cancelled)
    bench.preparing._thread.join(60)
    assert not bench.preparing._thread.is_alive()
    assert bench.delivered.empty()
