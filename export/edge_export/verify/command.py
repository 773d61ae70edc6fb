"""`edge-export verify`: run the parity gate on a bundle, show the figures, and keep them in its manifest."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from edge_export.checkpoint.source import resolve_source
from edge_export.errors import OptionError
from edge_export.verify.gate import PromptParity, run_gate
from edge_export.verify.limits import limits_for
from edge_runtime.model.manifest import ParityReport, load_manifest, save_manifest


def verify_command(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder that edge-export wrote.")],
    source: Annotated[str, typer.Option(help="The checkpoint the bundle was made from: a folder, hub id, or pocket.")],
    reference: Annotated[
        str,
        typer.Option(help="numpy (our own forward pass) or optimum (transformers, traced; needs the verify extra)."),
    ] = "numpy",
) -> None:
    """Compare a bundle with its checkpoint and write the result into its manifest; exit 1 past the thresholds."""
    console, errors = Console(), Console(stderr=True)
    results: list[PromptParity] = []

    def show_progress(result: PromptParity) -> None:
        results.append(result)
        errors.print(f"[dim]{result.name} done[/dim]")

    report = run_gate(bundle, resolve_source(source), reference, show_progress)
    manifest = load_manifest(bundle)
    console.print(parity_table(results, report))
    for failure in limits_for(manifest).failures(report):
        console.print(f"[red]failed:[/red] {failure}", highlight=False)
    try:
        save_manifest(msgspec.structs.replace(manifest, parity=_storable(report)), bundle)
    except OSError as error:
        raise OptionError(
            f"the result cannot be written into {bundle}: {error.strerror or error}; free some room, or get the rights "
            "to write there"
        ) from error
    if not report.passed:
        raise typer.Exit(1)


def parity_table(results: list[PromptParity], report: ParityReport) -> Table:
    """One row per prompt, and what goes into the manifest as the last."""
    table = Table(title=f"parity with the {report.reference} reference: {'passed' if report.passed else 'FAILED'}")
    table.add_column("prompt")
    for name in (
        "vision cosine",
        "max logit error",
        "mean logit error",
        "KL (nats)",
        "KL to rounded",
        "greedy tokens equal",
    ):
        table.add_column(name, justify="right")
    for result in results:
        table.add_row(result.name, *_cells(result), end_section=result is results[-1])
    table.add_row("all", *_cells(report))
    return table


def _storable(report: ParityReport) -> ParityReport:
    """`report` with a number in place of every figure that is none, which JSON cannot hold; the verdict is made."""

    def number(figure: float, worst: float) -> float:
        return figure if math.isfinite(figure) else worst

    rounded = report.mean_kl_to_rounded
    return msgspec.structs.replace(
        report,
        vision_cosine=number(report.vision_cosine, -1.0),
        max_abs_logit_error=number(report.max_abs_logit_error, 1e300),
        mean_abs_logit_error=number(report.mean_abs_logit_error, 1e300),
        mean_kl=number(report.mean_kl, 1e300),
        mean_kl_to_rounded=None if rounded is None else number(rounded, 1e300),
    )


def _cells(figures: PromptParity | ParityReport) -> list[str]:
    return [
        "-" if figures.vision_cosine is None else f"{figures.vision_cosine:.6f}",
        f"{figures.max_abs_logit_error:.2e}",
        f"{figures.mean_abs_logit_error:.2e}",
        f"{figures.mean_kl:.2e}",
        "-" if figures.mean_kl_to_rounded is None else f"{figures.mean_kl_to_rounded:.2e}",
        f"{figures.greedy_tokens_equal} of {figures.greedy_tokens_compared}",
    ]
