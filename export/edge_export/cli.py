"""The command `edge-export`: `edge-export SOURCE OUT`, `edge-export verify`, `edge-export random-checkpoint`.

The export itself needs no subcommand. Errors raised on purpose become one message on standard error and an exit status.
"""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, cast

import typer
from typer.core import TyperGroup

from edge_export import __version__
from edge_export.errors import ExportError, MissingPackage, ParityFailed
from edge_export.options import ExportOptions, resolve_flavour
from edge_export.packages import require_packages
from edge_runtime.devices.memory import format_bytes
from edge_runtime.errors import EdgeError
from edge_runtime.model.manifest import Flavour, Manifest, WeightFormat

EXPORT = "export"
"""The command that is meant where none is named."""

SUBCOMMANDS = {
    "verify": ("edge_export.verify.command", "verify_command"),
    "random-checkpoint": ("edge_export.random_checkpoint", "random_checkpoint_command"),
}
"""Imported when they are asked for: `verify` needs packages that an export does not."""

USAGE_STATUS = 2
"""Exit status where the input or the options are at fault; 1 where the bundle is."""


class ExportGroup(TyperGroup):
    """Takes arguments that name no subcommand as those of the export, and turns our errors into exit statuses."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the export command in front of arguments that name none."""
        if args and args[0] not in (EXPORT, *SUBCOMMANDS, "--help", "--version"):
            args = [EXPORT, *args]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: Any) -> list[str]:
        """All subcommands, loaded or not."""
        return [*super().list_commands(ctx), *SUBCOMMANDS]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Load the subcommand `cmd_name` if need be; without its packages it is one that says so when it is run."""
        if cmd_name not in SUBCOMMANDS:
            return super().get_command(ctx, cmd_name)
        module, function = SUBCOMMANDS[cmd_name]
        try:
            return _as_command(cmd_name, getattr(load(module), function))
        except MissingPackage as error:
            return _refusal(cmd_name, error)

    def invoke(self, ctx: Any) -> Any:
        """Run the subcommand; an error raised on purpose ends the process with its status and no traceback."""
        try:
            return super().invoke(ctx)
        except (ExportError, EdgeError) as error:
            typer.echo(f"edge-export: {error}", err=True)
            raise typer.Exit(1 if isinstance(error, ParityFailed) else USAGE_STATUS) from error


def load(module: str) -> Any:
    """Import a module that needs the export extra. Raises `MissingPackage` where that is not there, or broken."""
    require_packages()
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingPackage(
            f"{error.name or module} cannot be imported ({error}); install edge-runtime and its extra export again"
        ) from error


app = typer.Typer(cls=ExportGroup, add_completion=False, no_args_is_help=True)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"edge-export {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Turn a Hugging Face Qwen3-VL checkpoint into a bundle for edge-runtime: edge-export SOURCE OUT."""


@app.command(EXPORT)
def export_command(  # noqa: PLR0913, PLR0917 - one per option
    source: Annotated[str, typer.Argument(help="Checkpoint folder, model id on the Hugging Face hub, or pocket.")],
    out: Annotated[Path, typer.Argument(help="Bundle folder to write.")],
    weights: Annotated[str, typer.Option(help="Decoder weights: int4, int8 or fp32.")] = "int4",
    block_size: Annotated[int, typer.Option(help="Int4 weights that share a scale: 32, 64 or 128.")] = 32,
    vision: Annotated[str | None, typer.Option(help="Vision weights: int8 or fp32. [default: by --weights]")] = None,
    lm_head: Annotated[str | None, typer.Option(help="LM head: int4 or int8. [default: by --weights]")] = None,
    flavour: Annotated[
        str | None,
        typer.Option(
            help="Operators the graphs are made of: edge or portable. [default: edge, the fast one, where the kernel "
            "library is installed and has what the model needs]"
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the bundle OUT.")] = False,
    gate: Annotated[
        bool | None,
        typer.Option(
            "--gate/--no-gate",
            help="Compare with the checkpoint before keeping the bundle. [default: models up to 100 M parameters]",
        ),
    ] = None,
) -> None:
    """Export SOURCE to OUT; the word `export` may be left out."""
    options = ExportOptions(
        weights=cast(WeightFormat, weights),
        block_size=block_size,
        vision=cast("WeightFormat | None", vision),
        lm_head=cast("WeightFormat | None", lm_head),
        flavour=cast("Flavour | None", flavour),
        force=force,
        gate=gate,
    )
    pipeline = load("edge_export.pipeline")  # slow to import: options are checked first
    from edge_export.progress import ProgressBars  # noqa: PLC0415

    signal.signal(signal.SIGTERM, _exit_cleanly)
    with ProgressBars() as progress:
        manifest = pipeline.export_bundle(source, out, options, progress, warn=progress.warn)
    choice = resolve_flavour(options, manifest.architecture, has_kernels=pipeline.find_kernels() is not None)
    typer.echo(_summary(manifest, source, out))
    typer.echo(f"flavour {choice.flavour}: {choice.reason}")


def _summary(manifest: Manifest, source: str, out: Path) -> str:
    worst = max(manifest.tensor_errors, key=lambda error: error.relative_rms, default=None)
    lines = [f"wrote {out}: {manifest.name}, {format_bytes(manifest.size_bytes)}"]
    if worst is not None:
        lines.append(f"largest round-trip error: {worst.relative_rms:.2%} in {worst.name} ({worst.weights})")
    if manifest.parity is not None:
        lines.append(f"parity with {manifest.parity.reference}: passed")
    else:
        lines.append(
            f"parity not measured; do so with: {shlex.join(['edge-export', 'verify', str(out), '--source', source])}"
        )
    return "\n".join(lines)


def _exit_cleanly(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature is Python's
    """Leave by an exception, so that what was begun is removed."""
    sys.exit(128 + signum)


def _refusal(name: str, error: MissingPackage) -> Any:
    single = typer.Typer(add_completion=False)

    @single.command(name, help=str(error), context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
    def refuse(arguments: Annotated[list[str] | None, typer.Argument(hidden=True)] = None) -> None:  # noqa: ARG001
        raise error

    return typer.main.get_command(single)


def _as_command(name: str, function: Callable[..., None]) -> Any:
    single = typer.Typer(add_completion=False)
    single.command(name)(function)
    return typer.main.get_command(single)
