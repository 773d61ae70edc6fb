"""`edge-runtime profiles`."""

from __future__ import annotations

from edge_runtime.cli.outcome import reports_errors


@reports_errors
def profiles() -> None:
    """List the device profiles, and which one suits this machine."""
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    from edge_runtime.devices.memory import format_bytes  # noqa: PLC0415
    from edge_runtime.devices.probe import probe_machine  # noqa: PLC0415
    from edge_runtime.devices.profile import list_profiles  # noqa: PLC0415
    from edge_runtime.devices.select import pick_profile, resolve_profile  # noqa: PLC0415

    machine = probe_machine()
    known = list_profiles()
    best = pick_profile(known, machine)
    table = Table(box=None)
    for heading in ("", "profile", "threads", "budget here", "context", "max pixels", "chats"):
        table.add_column(heading, no_wrap=True)
    for profile in known:
        here = resolve_profile(profile, machine)
        table.add_row(
            "*" if profile is best else "",
            profile.name,
            str(profile.cpu.threads),
            format_bytes(here.budget_bytes),
            f"{here.context_tokens:,}",
            f"{here.max_pixels:,}",
            str(here.max_chats),
        )
    console = Console()
    console.print(table)
    for profile in known:
        console.print(f"\n{profile.name}: {profile.description}", style="dim", highlight=False, end="")
    console.print()
    memory = f"{format_bytes(machine.available_bytes)} of {format_bytes(machine.total_bytes)} free"
    processor = f"{machine.model or 'unknown processor'}, {machine.arch}, {machine.physical_cores} cores"
    console.print(
        f"\n* suits this machine: {processor}, {memory}",
        style="dim",
        highlight=False,
    )
