"""`edge-runtime ping`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from edge_runtime.cli.outcome import reports_errors
from edge_runtime.serving.address import DEFAULT_ADDRESS

if TYPE_CHECKING:
    from edge_runtime.engine.cache_info import CacheInfo


@reports_errors
def ping(
    address: Annotated[str, typer.Argument(help="Where the server listens.")] = DEFAULT_ADDRESS,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for its answer.")] = 5.0,
) -> None:
    """Say whether a server answers, and how busy it is: two lines and exit code 0, or an error and another code."""
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
    if info.cache is not None:
        typer.echo(_told(info.cache))


def _told(cache: CacheInfo) -> str:
    """What the server holds, and what it has found again."""
    mib = cache.kv_bytes_per_token / 2**20
    return (
        f"keys and values: {cache.kv_held_tokens * mib:.0f} MiB held, {cache.kv_kept_tokens * mib:.0f} kept of "
        f"{cache.kv_tokens * mib:.0f}; features: {cache.feature_bytes / 2**20:.0f} of "
        f"{cache.max_feature_bytes / 2**20:.0f} MiB; found again: {cache.cached_tokens} of {cache.prompt_tokens} "
        f"prompt tokens, {cache.vision_cached} of {cache.images} images"
    )
