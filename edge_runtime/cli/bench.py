"""`edge-runtime bench`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from edge_runtime.cli.outcome import reports_errors

if TYPE_CHECKING:
    from rich.table import Table

    from edge_runtime.bench.benchmark import BenchmarkReport, Measurement


@reports_errors
def bench(
    bundle: Annotated[str, typer.Argument(help="Folder that edge-export wrote, or pocket: the model that ships.")],
    profile: Annotated[str, typer.Option(help="Device profile: a name, a file, or auto.")] = "auto",
    repeats: Annotated[int, typer.Option(min=1, help="Times each thing is measured; medians are shown.")] = 3,
    screens: Annotated[
        str | None, typer.Option(help="Screen sizes instead of the usual three, such as 1280x720,3840x2160.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object at the end instead.")] = False,
) -> None:
    """Measure how fast a bundle runs here, and how near that is to what the machine can do."""
    import msgspec  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415

    from edge_runtime.bench.benchmark import run_benchmark  # noqa: PLC0415
    from edge_runtime.bench.questions import Workload, parse_screens  # noqa: PLC0415
    from edge_runtime.devices.memory import MemoryRequest  # noqa: PLC0415
    from edge_runtime.devices.probe import probe_machine  # noqa: PLC0415
    from edge_runtime.devices.select import select_profile  # noqa: PLC0415
    from edge_runtime.engine.load import plan_bundle  # noqa: PLC0415
    from edge_runtime.engine.pocket import bundle_folder  # noqa: PLC0415
    from edge_runtime.model.manifest import load_manifest  # noqa: PLC0415

    folder = bundle_folder(bundle)
    chosen = select_profile(profile, probe_machine())
    workload, max_pixels = Workload(repeats), None
    if screens is not None:  # the profile's own limit is for every day; who names a larger screen means it
        workload = Workload(repeats, images=parse_screens(screens))
        largest = max(image.pixels(load_manifest(folder)) for image in workload.images)
        max_pixels = largest if largest > chosen.max_pixels else None
    opened, plan = plan_bundle(folder, chosen, MemoryRequest(max_chats=1, max_pixels=max_pixels))
    progress = Console(stderr=True)
    report = run_benchmark(
        opened, chosen, plan, workload, lambda what: progress.print(f"measuring: {what}", style="dim")
    )
    if json:
        typer.echo(msgspec.json.encode(report).decode())
        return
    console = Console()
    console.print(_table(report))
    for line in (*_machine(report), *(f"not run: {line}" for line in report.not_run)):
        console.print(line, style="dim", highlight=False)


def _table(report: BenchmarkReport) -> Table:
    from rich.table import Table  # noqa: PLC0415

    table = Table(box=None, title=f"{report.bundle}, {report.flavour}, profile {report.profile}", title_justify="left")
    table.add_column("", no_wrap=True)
    for heading in ("median", "range", "of peak"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in report.measurements:
        low, high = min(row.samples), max(row.samples)
        spread = f"{_value(low, row)} - {_value(high, row)}" if len(row.samples) > 1 else ""
        share = "" if row.of_peak is None else f"{row.of_peak:.0%} {row.peak}"
        unit = "" if row.unit == "bytes" else f" {row.unit}"
        table.add_row(row.name, f"{_value(row.value, row)}{unit}", spread, share)
    return table


def _machine(report: BenchmarkReport) -> list[str]:
    peaks = report.peaks
    if peaks is None:
        return []
    return [
        f"this machine on {peaks.num_threads} threads: reads {peaks.read_bytes_per_s / 1e9:.1f} GB/s; "
        f"{peaks.int8_ops_per_s / 1e9:.0f} int8 GOP/s ({peaks.isa})"
    ]


def _value(value: float, row: Measurement) -> str:
    if row.unit == "bytes":
        from edge_runtime.devices.memory import format_bytes  # noqa: PLC0415

        return format_bytes(value)
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
