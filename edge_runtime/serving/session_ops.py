"""What a client asks for its sessions, done. Knows no sockets."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from edge_runtime.engine.session import Sessions
from edge_runtime.engine.session_state import SessionState
from edge_runtime.serving import messages as wire
from edge_runtime.serving.conversion import messages_from_wire


def carry_out(
    sessions: Sessions, message: wire.Session, frames: Sequence[memoryview], client: Hashable
) -> wire.SessionReply:
    """Do what `message` asks, for `client`. Raises as the methods of `Sessions` do, and as `messages_from_wire`."""
    salt = message.cache_salt
    match message.op:
        case "open":
            state = sessions.open(messages_from_wire(message.messages, frames), client=client, cache_salt=salt)
        case "fork":
            state = sessions.fork(message.session, message.turn, client=client, cache_salt=salt)
        case "state":
            state = sessions.state(message.session, salt)
        case "close":
            state = sessions.state(message.session, salt)
            sessions.close(message.session, salt)
    return _reply(message.request_id, state)


def _reply(request_id: str, state: SessionState) -> wire.SessionReply:
    return wire.SessionReply(
        request_id=request_id,
        session=state.session_id,
        num_turns=state.num_turns,
        num_messages=state.num_messages,
        num_bytes=state.num_bytes,
        timeout_s=state.timeout_s,
        is_busy=state.is_busy,
    )
