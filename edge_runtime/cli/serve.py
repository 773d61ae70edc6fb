"""`edge-runtime serve`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_runtime.cli.outcome import reports_errors
from edge_runtime.serving.address import DEFAULT_ADDRESS

if TYPE_CHECKING:
    from edge_runtime.engine.load import PlannedBundle
    from edge_runtime.serving.server import Server


@reports_errors
def serve(  # noqa: PLR0913, PLR0917 - these are the command's own options
    bundle: Annotated[str, typer.Argument(help="Folder that edge-export wrote, or pocket: the model that ships.")],
    bind: Annotated[
        str, typer.Option(help="Address on this machine: tcp://127.0.0.1:PORT or ipc:///PATH.")
    ] = DEFAULT_ADDRESS,
    profile: Annotated[str, typer.Option(help="Device profile by name or TOML file; auto picks one.")] = "auto",
    socket_mode: Annotated[
        str | None,
        typer.Option(help="Who may connect to an ipc:// address, in octal, as 0660. Default: 0600, this user."),
    ] = None,
    socket_group: Annotated[
        str | None, typer.Option(help="Group of an ipc:// address; with --socket-mode 0660.")
    ] = None,
    session_timeout: Annotated[
        float, typer.Option(min=1, help="Seconds after which a session that nobody uses is forgotten.")
    ] = 3600.0,
    keep_sessions: Annotated[
        Path | None,
        typer.Option(help="Folder that keeps sessions over a restart, and that clients may save sessions into."),
    ] = None,
    drain_seconds: Annotated[
        float, typer.Option(min=0, max=86400, help="How long answers in progress may take at SIGTERM.")
    ] = 10.0,
) -> None:
    """Serve a bundle until SIGTERM or Ctrl-C; a second one does not wait for answers in progress."""
    import logging  # noqa: PLC0415
    from contextlib import closing  # noqa: PLC0415
    from dataclasses import replace  # noqa: PLC0415

    from edge_runtime.engine.load import PlannedBundle  # noqa: PLC0415
    from edge_runtime.serving.model_info import model_info  # noqa: PLC0415
    from edge_runtime.serving.server import Server  # noqa: PLC0415
    from edge_runtime.serving.settings import ServerSettings  # noqa: PLC0415

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    settings = ServerSettings(
        bind=bind,
        socket_mode=_octal(socket_mode),
        socket_group=socket_group,
        shutdown_grace_s=drain_seconds,
        keep_sessions=keep_sessions,
    )
    planned = PlannedBundle.open(bundle, profile)
    # The address is taken before the model is loaded: a second server says so at once.
    with closing(Server(settings)) as server, _stopped_by_signals(server):
        _print_plan(planned)
        engine = planned.load()
        engine.sessions.limits = replace(engine.sessions.limits, timeout_s=session_timeout)
        typer.echo(f"serving {planned.bundle.manifest.name} at {server.address}")
        server.run(engine, model_info(planned))


def _octal(mode: str | None) -> int | None:
    from edge_runtime.errors import BadParameter  # noqa: PLC0415

    if mode is None:
        return None
    if not re.fullmatch("0?[67][0-7][0-7]", mode):
        raise BadParameter(f"socket mode {mode!r} is none; wanted three octal digits, as 0660, the owner's 6 or 7")
    return int(mode, 8)


def _print_plan(planned: PlannedBundle) -> None:
    typer.echo(f"{planned.bundle.manifest.name} with profile {planned.profile.name}:")
    for what, size, remark in planned.plan.rows():
        typer.echo(f"  {what:<10}{size:>10}  {remark}".rstrip())
    if planned.parity_notice is not None:
        typer.echo(planned.parity_notice)


@contextmanager
def _stopped_by_signals(server: Server) -> Iterator[None]:
    """SIGTERM and Ctrl-C stop the server in good order; while the model loads they take effect after that.

    One that comes just before the server waits does not interrupt the wait, and Python acts on it only behind that; so
    the system's own handler wakes the server, too.
    """
    import os  # noqa: PLC0415
    import signal  # noqa: PLC0415

    waker = server.waker()
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: server.stop())
        yield
    finally:
        signal.set_wakeup_fd(-1)
        os.close(waker)
