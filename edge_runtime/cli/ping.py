"""`edge-runtime ping`."""

from __future__ import annotations

from typing import Annotated

import typer

from edge_runtime.cli.outcome import reports_errors
from edge_runtime.serving.address import DEFAULT_ADDRESS


@reports_errors
def ping(
    address: Annotated[str, typer.Argument(help="Where the server listens.")] = DEFAULT_ADDRESS,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for its answer.")] = 5.0,
) -> None:
    """Say whether a server answers, and how busy it is: one line and exit code 0, or an error and another code."""
    import time  # noqa: PLC0415

    from edge_runtime.serving.client import Client  # noqa: PLC0415
    from edge_runtime.serving.client_core import Timeouts  # noqa: PLC0415

    with Client(address, timeouts=Timeouts(connect_s=timeout)) as client:
        started_s = time.perf_counter()
        info = client.info()
        passed_ms = (time.perf_counter() - started_s) * 1e3
    limits = info.limits
    typer.echo(
        f"{info.model} ({info.server_version}) at {address}: "
        f"{info.in_flight} of {limits.max_in_flight} requests in flight, {passed_ms:.1f} ms"
    )
