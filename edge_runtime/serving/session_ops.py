"""What a client asks for its sessions, done. Knows no sockets."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from pathlib import Path

from edge_runtime.engine.dropping import drop
from edge_runtime.engine.engine import Engine
from edge_runtime.engine.session_files import SessionFiles
from edge_runtime.engine.session_jobs import Job, SessionJobs
from edge_runtime.engine.session_state import SessionState
from edge_runtime.engine.thread import EngineThread
from edge_runtime.serving import messages as wire
from edge_runtime.serving.conversion import messages_from_wire
from edge_runtime.serving.session_paths import session_path


class SessionOps:
    """The sessions of an engine, as clients use them."""

    def __init__(
        self, engine: Engine, thread: EngineThread, wake: Callable[[], None], address: str, folder: Path | None
    ) -> None:
        """`thread` is that of `engine`, `wake` is for `SessionJobs`, and the others are for `session_path`."""
        self._engine = engine
        self._thread = thread
        self._address = address
        self._folder = folder
        self.jobs = SessionJobs(wake)
        """Savings and restorings."""

    @property
    def files(self) -> SessionFiles:
        """The sessions, in files."""
        return SessionFiles(self._engine.saving, self._thread.call)

    def do(
        self, message: wire.Session, frames: Sequence[memoryview], client: Hashable, enter: Callable[[], str]
    ) -> SessionState | None:
        """Do what `message` asks, for `client`; None: `jobs` will tell, under the name that `enter` has given it.

        That is so for what takes long, and where requests of the client for that session, which came before, have not
        begun yet: it is done behind them. Raises as `_carry_out` and `enter`.
        """
        work = partial(self._carry_out, message, frames, client)
        if self._thread.is_preparing(client, message.session):
            self._thread.do_behind(client, message.session, partial(self.jobs.do, enter(), work))
            return None
        done = work()
        if isinstance(done, SessionState):
            return done
        self.jobs.start(enter(), done)
        return None

    def _carry_out(self, message: wire.Session, frames: Sequence[memoryview], client: Hashable) -> SessionState | Job:
        """Do what is asked; what takes long is returned, as a job.

        Raises as the methods of `Sessions` do, and as `messages_from_wire` and `session_path`.
        """
        salt, sessions = message.cache_salt, self._engine.sessions
        match message.op:
            case "open":
                state = sessions.open(messages_from_wire(message.messages, frames), client=client, cache_salt=salt)
            case "fork":
                state = sessions.fork(message.session, message.turn, client=client, cache_salt=salt)
            case "state":
                state = sessions.state(message.session, salt)
            case "drop":
                lighter = partial(
                    drop, num_kept=message.keep_images, reasoning=message.reasoning, approximate=message.approximate
                )
                state = sessions.change(message.session, lighter, salt)
            case "close":
                state = sessions.state(message.session, salt)
                sessions.close(message.session, salt)
            case "save":
                path = session_path(message.path, self._address, self._folder).path
                return partial(self.files.write, sessions.saved(message.session, salt), path)
            case "restore":
                place = session_path(message.path, self._address, self._folder)
                return partial(self.files.restore, place.path, salt, client=client, is_ours=place.is_ours)
        return state
