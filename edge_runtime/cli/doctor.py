"""`edge-runtime doctor`."""

from __future__ import annotations

from edge_runtime.cli.outcome import reports_errors


@reports_errors
def doctor() -> None:
    """Say what this machine is, which kernels would run on it, and why."""
    from rich.console import Console  # noqa: PLC0415

    from edge_kernels.library import KernelError, KernelLibrary  # noqa: PLC0415
    from edge_runtime.devices.memory import format_bytes  # noqa: PLC0415
    from edge_runtime.devices.probe import probe_machine  # noqa: PLC0415
    from edge_runtime.devices.profile import list_profiles  # noqa: PLC0415
    from edge_runtime.devices.select import pick_profile  # noqa: PLC0415
    from edge_runtime.model.graph import describe_onnxruntime  # noqa: PLC0415

    console = Console(highlight=False, soft_wrap=True)
    machine = probe_machine()
    console.print(f"processor    {machine.model or 'unknown'}, {machine.arch}, {machine.physical_cores} cores")
    console.print(
        f"memory       {format_bytes(machine.available_bytes)} of {format_bytes(machine.total_bytes)} available to us"
    )
    console.print(f"profile      {pick_profile(list_profiles(), machine).name}")
    console.print(f"onnxruntime  {describe_onnxruntime()}")
    try:
        library = KernelLibrary()
    except KernelError as error:
        console.print(f"kernels      none: {error}")
        return
    chosen = library.chosen()
    console.print(f"kernels      {library.path}")
    for isa in library.instruction_sets():
        if isa == chosen:
            verdict = "chosen: the best one this processor has"
        elif isa.supported:
            verdict = "possible"
        else:
            verdict = "not on this processor"
        console.print(f"  {isa.name:<13}{verdict} (needs {isa.requirements})")
