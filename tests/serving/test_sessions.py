"""Sessions over the socket, with both clients."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from edge_runtime import errors
from edge_runtime.engine.dropping import older_than
from edge_runtime.engine.session import SessionLimits, Sessions
from edge_runtime.model.conversation import ImagePart
from edge_runtime.serving import messages as wire
from edge_runtime.serving.async_client import AsyncClient
from edge_runtime.serving.client import Client
from edge_runtime.serving.conversion import request_from_wire
from edge_runtime.serving.sockets import Dealer
from tests.serving.conftest import RunningServer

Serve = Callable[..., RunningServer]


def said(running: RunningServer) -> str:
    """All that the last request said."""
    return " ".join(
        f"{message.role}:{getattr(part, 'text', '(picture)')}"
        for message in running.engine.requests[-1].messages
        for part in message.content
    )


def test_only_what_is_new_is_sent(serve: Serve) -> None:
    running = serve()
    with Client(running.address) as client, client.session(system="brief") as session:
        assert session.ask("count 1", images=b"picture").text == "0 "
        session.ask("count 2")
        assert said(running) == "system:brief user:(picture) user:count 1 assistant:0  user:count 2"
        fork = session.fork(1)
        fork.ask("count 3")
        assert said(running) == "system:brief user:(picture) user:count 1 assistant:0  user:count 3"
        session.edit(0, "count 1")
        session.regenerate()
        assert said(running) == "system:brief user:count 1"
        assert (session.state().num_turns, fork.state().num_turns) == (1, 2)
    with pytest.raises(errors.UnknownSession), Client(running.address) as client:
        client.session(session.session_id)


def test_an_unchanged_screen_is_left_out_and_does_not_travel(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    running = serve()
    num_frames: list[int] = []
    send = Dealer.send

    def counting(dealer: Dealer, frames: list[bytes]) -> bool:
        if wire.peek(frames[0]).type == "generate":
            num_frames.append(len(frames) - 1)
        return send(dealer, frames)

    monkeypatch.setattr(Dealer, "send", counting)
    one, two = (np.full((64, 64, 3), value, np.uint8) for value in (1, 2))
    with Client(running.address) as client, client.session(skip_unchanged=True) as session:

        def ask(picture: object, **fields: object) -> int:
            return session.ask("count 1", images=picture, **fields).timings.unchanged_images  # type: ignore[arg-type]

        assert [ask(picture) for picture in (one, one.copy(), two, two, one, one)] == [0, 1, 0, 1, 0, 1]
        assert num_frames == [
            1,
            0,
            1,
            0,
            0,
            1,
            0,
        ]  # in the fifth turn the picture is not the last, and needed after all
        assert said(running).count("(picture)") == 3
        assert ask(one, skip_unchanged=False) == 0
        fork = session.fork()
        assert fork.ask("count 1", images=one).timings.unchanged_images == 1
        assert session.edit(0, "count 1", images=one).timings.unchanged_images == 0
        assert session.edit(-1, "count 1", images=[one, two], skip_unchanged=False).timings.unchanged_images == 0
        with pytest.raises(errors.BadParameter, match="skip_unchanged is 'yes'"):
            ask(one, skip_unchanged="yes")
        with pytest.raises(errors.BadParameter, match="are for a request of a session"):
            request_from_wire(wire.Generate(request_id="r", messages=(), skip_unchanged=True), ())

    async def with_asyncio() -> list[int]:
        async with AsyncClient(running.address) as client, await client.session() as session:
            session.skip_unchanged = True
            answers = [await session.ask("count 1", images=one) for _ in range(2)]
            return [answer.timings.unchanged_images for answer in answers]

    assert asyncio.run(with_asyncio()) == [0, 1]


def test_old_images_are_dropped(serve: Serve) -> None:
    running = serve()
    with Client(running.address) as client, client.session() as session:
        for name in (b"one", b"two", b"three"):
            session.ask("count 1", images=name)
        assert session.drop(older_than(1), approximate=True).num_messages == 6
        session.ask("count 1")
        parts = [part for message in running.engine.requests[-1].messages for part in message.content]
        assert [part.dropped for part in parts if isinstance(part, ImagePart)] == [1, 1, 0]
        session.drop(images=older_than(1), reasoning=True)
        session.drop(reasoning=True)
        session.ask("count 2")
        assert said(running).count("(picture)") == 1
        with pytest.raises(errors.BadParameter, match="wanted older_than"):
            session.drop(2)  # type: ignore[arg-type]


def test_a_lost_connection_does_not_lose_a_session(serve: Serve) -> None:
    running = serve()
    with Client(running.address) as client:
        session = client.session()
        session.ask("count 1")
        stream = session.generate("hold")
        next(stream)
    running.engine.wait_until_idle(2)
    with Client(running.address) as client:
        again = client.session(session.session_id)
        again.ask("count 2")
        assert said(running) == "user:count 1 assistant:0  user:count 2"


def test_a_newer_request_can_supersede(serve: Serve) -> None:
    running = serve()
    with Client(running.address) as client, client.session() as session:
        held = session.generate("hold")
        next(held)
        with pytest.raises(errors.SessionBusy):
            session.ask("count 1")
        session.ask("count 1", supersede=True)
        with pytest.raises(errors.Cancelled, match="superseded"):
            held.result  # noqa: B018


def test_what_is_asked_of_a_session_is_done_behind_the_requests_before_it(serve: Serve) -> None:
    """One that is still being prepared has not begun: what came later would find a session that answers nothing."""
    running = serve()
    with Client(running.address) as client, client.session() as session, client.session() as other:
        session.ask("count 1", images=b"picture")
        stream = session.generate("prepare slowly")
        assert running.engine.preparing.wait(20)
        assert other.state().num_turns == 0  # at once: no request of it came before
        calls: list[Callable[[], object]] = [
            lambda: session.drop(older_than(0)),
            lambda: session.state().is_busy,
            lambda: session.fork().state().num_turns,
            session.close,
        ]
        with ThreadPoolExecutor() as pool:
            done = []
            for call in calls:
                done.append(pool.submit(call))
                wait_for_in_flight(running, len(done) + 1)
            running.engine.prepared.set()
            with pytest.raises(errors.SessionBusy):
                done[0].result()
            assert (done[1].result(), done[2].result(), done[3].result()) == (True, 1, None)
        with pytest.raises(errors.Cancelled, match="closed"):
            stream.result  # noqa: B018


def wait_for_in_flight(running: RunningServer, count: int) -> None:
    """Until the server has as many requests, one after the other."""
    with Client(running.address) as client:
        while client.info().in_flight < count:
            time.sleep(0.001)


def test_limits_and_salts_reach_the_caller(serve: Serve) -> None:
    running = serve()
    running.engine.sessions.limits = SessionLimits(max_sessions_per_client=1)
    with Client(running.address) as client:
        session = client.session(cache_salt="key")
        with pytest.raises(errors.TooManySessions):
            client.session()
        with pytest.raises(errors.UnknownSession):
            client.session(session.session_id)
        session.ask("count 1")
        assert running.engine.requests[-1].options.cache_salt == "key"
        with pytest.raises(errors.BadParameter, match="cache_salt"):
            session.ask("count 1", cache_salt="other")
        with pytest.raises(errors.BadParameter, match="has its messages"):
            client.session(session.session_id, system="new")
        with pytest.raises(errors.BadParameter, match="there is no turn 7"):
            session.edit(7, "x")
        wrong: list[Callable[[], object]] = [
            lambda: session.edit(2**70, "x"),
            lambda: session.fork("x"),  # type: ignore[arg-type]
            lambda: session.ask("x", supersede="yes"),
            lambda: client.session(5),  # type: ignore[arg-type]
            lambda: client.session(cache_salt="x" * 257),
            lambda: session.save(""),
        ]
        for call in wrong:
            with pytest.raises(errors.BadParameter):
                call()


def test_the_asyncio_client_has_them_too(serve: Serve) -> None:
    running = serve()

    async def talk() -> None:
        async with AsyncClient(running.address) as client, await client.session(messages=["count 1"]) as session:
            await session.regenerate()
            await session.ask("count 2")
            assert said(running) == "user:count 1 assistant:0  user:count 2"
            fork = await session.fork()
            await fork.edit(-1, "count 3")
            assert said(running) == "user:count 1 assistant:0  user:count 3"
            assert [delta.text async for delta in session.generate("count 1")] == ["0 "]
            assert (await session.state()).num_turns == 3
            await session.ask("count 1", images=b"picture")
            assert (await session.drop(older_than(0))).num_turns == 4
            await session.ask("count 2")
            assert "picture" not in said(running)

    asyncio.run(talk())
    assert isinstance(running.engine.sessions, Sessions)
    assert running.engine.sessions.num_sessions == 1  # the fork, which nobody closed
