"""`edge-runtime version`."""

from __future__ import annotations

import platform
from importlib import metadata

import typer

from edge_runtime import __version__
from edge_runtime.cli.outcome import reports_errors


@reports_errors
def version() -> None:
    """Show the versions that a bug report needs."""
    typer.echo(f"edge-runtime {__version__}")
    typer.echo(f"onnxruntime {metadata.version('onnxruntime')}, pyzmq {metadata.version('pyzmq')}")
    typer.echo(f"Python {platform.python_version()} on {platform.platform()}")
