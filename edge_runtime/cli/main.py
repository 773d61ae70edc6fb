"""The `edge-runtime` command. Each subcommand imports what it needs when it runs, so that `--help` is quick."""

from __future__ import annotations

from typing import Annotated

import typer

from edge_runtime import __version__
from edge_runtime.cli.ask import ask
from edge_runtime.cli.bench import bench
from edge_runtime.cli.doctor import doctor
from edge_runtime.cli.inspect import inspect
from edge_runtime.cli.ping import ping
from edge_runtime.cli.profiles import profiles
from edge_runtime.cli.serve import serve
from edge_runtime.cli.version import version

app = typer.Typer(
    name="edge-runtime",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for _command in (serve, ask, ping, profiles, inspect, doctor, bench, version):
    app.command()(_command)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"edge-runtime {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_show_version,
            is_eager=True,
            help="Show the version and exit; the command `version` shows more.",
        ),
    ] = False,
) -> None:
    """Run Qwen3-VL-class vision-language models on a device you can hold."""
