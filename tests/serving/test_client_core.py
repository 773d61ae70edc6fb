"""The client's decisions without sockets and clocks."""

from __future__ import annotations

import subprocess
import sys
import textwrap

from edge_runtime.engine.events import Delta, Failed, Finished
from edge_runtime.errors import ConnectionLost, EdgeError, InternalError, RequestError, ServerError, TimedOut
from edge_runtime.serving import messages as wire
from edge_runtime.serving.client_core import ClientCore, Timeouts
from edge_runtime.serving.conversion import error_from_wire, failure_to_wire

ACCEPTED = wire.encode(wire.Accepted(request_id="1", client_timeout_s=4.0))
DELTA = wire.encode(wire.Delta(request_id="1", text="a"))
FINISHED = wire.encode(wire.Finished(request_id="1", text="a", finish_reason="stop"))


def core_with_one_request() -> ClientCore:
    core = ClientCore("tcp://127.0.0.1:1", Timeouts(connect_s=5, first_token_s=50, idle_s=10, server_silence_s=1000))
    core.begin("1", 100.0)
    return core


def test_each_stage_has_its_own_limit() -> None:
    core = core_with_one_request()
    assert core.tick(104.9) == ([], [])
    core.receive([ACCEPTED], 104.9)
    core.receive([wire.encode(wire.Pong())], 154.0)
    assert core.tick(154.8)[1] == []
    core.receive([DELTA], 154.8)
    messages, (reply,) = core.tick(164.8)
    assert wire.Cancel(request_id="1") in messages
    assert isinstance(reply, Failed)
    assert isinstance(reply.error, TimedOut)
    assert core.idle
    assert core.receive([FINISHED], 165.0) == []


def test_not_accepted_in_time_is_a_lost_connection() -> None:
    _, (reply,) = core_with_one_request().tick(105.0)
    assert isinstance(reply, Failed)
    assert isinstance(reply.error, ConnectionLost)


def test_pings_at_a_quarter_of_the_server_s_patience() -> None:
    core = core_with_one_request()
    core.receive([ACCEPTED], 101.0)
    assert core.next_tick_s() == 102.0
    assert core.tick(102.0) == ([wire.Ping()], [])
    assert core.next_tick_s() == 103.0
    core.receive([FINISHED], 102.5)
    assert core.next_tick_s() is None
    assert core.tick(1000.0) == ([], [])


def test_heartbeats_keep_a_server_alive_and_silence_does_not() -> None:
    core = ClientCore("x", Timeouts(connect_s=None, server_silence_s=20))
    core.begin("1", 0.0)
    core.receive([wire.encode(wire.Pong())], 19.0)
    assert not core.server_is_silent(38.9)
    assert core.server_is_silent(39.0)
    (reply,) = core.lose("gone")
    assert isinstance(reply, Failed)
    assert reply.error.retryable
    assert not core.server_is_silent(1000.0)


def test_forgotten_request_is_silent_and_another_is_not() -> None:
    core = core_with_one_request()
    core.begin("2", 100.0)
    assert core.forget("1")
    assert not core.forget("1")
    assert core.receive([DELTA], 101.0) == []
    (reply,) = core.receive([wire.encode(wire.Delta(request_id="2", text="b"))], 101.0)
    assert isinstance(reply, Delta)


def test_error_without_a_code_of_its_own_travels_as_its_parent() -> None:
    """Whichever modules were imported first."""
    program = """
        from edge_runtime.errors import BadImage
        class Special(BadImage):
            def __init__(self, message, index): super().__init__(message)
        from edge_runtime.serving.conversion import error_from_wire, failure_to_wire
        back = error_from_wire(failure_to_wire(Special("why", 1), "1"))
        assert (type(back), str(back)) == (BadImage, "why"), back
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True)


def test_complaints_and_unknown_messages_end_nothing() -> None:
    core = core_with_one_request()
    complaint = failure_to_wire(InternalError("x"), "")
    unknown = wire.encode(wire.Ping())
    assert core.receive([wire.encode(complaint)], 101.0) == core.receive([unknown], 101.0) == []
    (reply,) = core.receive([FINISHED], 102.0)
    assert isinstance(reply, Finished)


def test_every_error_comes_back_as_itself_and_unknown_codes_as_the_nearest() -> None:
    def all_errors(root: type[EdgeError]) -> list[type[EdgeError]]:
        return [root, *(error for child in root.__subclasses__() for error in all_errors(child))]

    for error in all_errors(EdgeError)[1:]:
        if "code" not in vars(error):  # a matter of the part that raises it
            continue
        back = error_from_wire(failure_to_wire(error("why"), "1"))
        assert type(back) is error
        assert str(back) == "why"
    later = error_from_wire(wire.Failed(request_id="1", code="moon_phase", message="wait", retryable=True))
    assert (type(later), str(later)) == (ServerError, "wait (moon_phase)")
    never = error_from_wire(wire.Failed(request_id="1", code="moon_phase", message="no"))
    assert type(never) is RequestError
