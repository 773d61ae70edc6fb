"""The means of these tests: that `--isa` and `--memory-gib` reach processes, and the line about skipped tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.needs import skip_without, skipped_line
from tests.pretend import for_children

FACTS = """
import json
from edge_kernels.library import KernelError, KernelLibrary
from edge_runtime.devices.probe import probe_machine
from edge_runtime.devices.select import select_profile
machine = probe_machine()
try:
    kernels = [isa.name for isa in KernelLibrary().instruction_sets() if isa.supported]
except KernelError as error:
    kernels = str(error)
memory = [machine.total_bytes, machine.available_bytes]
print(json.dumps([select_profile("auto", machine).name, machine.model, max(memory), kernels]))
"""


def facts_of_a_child(isa: str | None, memory_bytes: int | None) -> list[object]:
    """Profile, processor, memory, and kernels or why there are none, in a Python process that pretends."""
    with for_children(isa, memory_bytes) as folder:
        done = subprocess.run(
            [sys.executable, "-c", FACTS],
            env=os.environ | {"PYTHONPATH": folder},
            check=True,
            capture_output=True,
            text=True,
        )
    return list(json.loads(done.stdout))


def test_a_child_is_a_small_machine_without_kernels() -> None:
    profile, model, memory, kernels = facts_of_a_child("none", 2**30)
    assert (profile, model, memory) == ("cpu-generic", "", 2**30)
    assert "install a compiler" in str(kernels)


@pytest.mark.usefixtures("kernel_library")
def test_a_child_has_nothing_better_than_the_instruction_set() -> None:
    assert facts_of_a_child("scalar", None)[3] == ["scalar"]


def test_skipped_tests_are_counted_by_what_would_run_them() -> None:
    with pytest.raises(pytest.skip.Exception) as first:
        skip_without("Inter", "apt install fonts-inter fonts-roboto")
    reasons = [f"Skipped: {first.value.msg}", "Skipped: Roboto is missing: apt install fonts-inter fonts-roboto"]
    line = skipped_line([*reasons, "Skipped: needs POSIX signals"])
    assert line == (
        "3 skipped, and what would run them: 2 (apt install fonts-inter fonts-roboto), 1 (needs POSIX signals)"
    )
    assert skipped_line([]) is None
