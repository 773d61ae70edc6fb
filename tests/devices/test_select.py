"""Which profile suits a machine, and what its open values become there."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edge_runtime.devices.probe import Machine
from edge_runtime.devices.profile import list_profiles, load_profile
from edge_runtime.devices.select import pick_profile, resolve_profile, select_profile
from edge_runtime.errors import ProfileError

GIB = 2**30
ARM_FEATURES = frozenset({"fp", "asimd", "asimddp"})
PLAIN = Machine("x86_64", "Some CPU", frozenset({"avx2"}), 4, 16 * GIB, 10 * GIB)


@pytest.mark.parametrize(
    ("machine", "name"),
    [
        (PLAIN, "cpu-generic"),
        (replace(PLAIN, cpu_features=frozenset({"avx2", "avx512f", "avx512_vnni"})), "laptop-x86-avx512"),
        (replace(PLAIN, cpu_features=frozenset({"avx2", "avx512f"})), "cpu-generic"),
        (replace(PLAIN, arch="aarch64", cpu_features=ARM_FEATURES), "cpu-generic"),
        (
            replace(PLAIN, arch="aarch64", cpu_features=ARM_FEATURES, model="Raspberry Pi 5 Model B Rev 1.0"),
            "raspberry-pi-5",
        ),
        (
            replace(PLAIN, arch="aarch64", cpu_features=ARM_FEATURES, model="NVIDIA Jetson Orin Nano Developer Kit"),
            "jetson-orin-nano-8gb",
        ),
        (replace(PLAIN, arch="riscv64", cpu_features=frozenset()), "cpu-generic"),
    ],
)
def test_auto_picks_the_profile_that_says_most(machine: Machine, name: str) -> None:
    assert pick_profile(list_profiles(), machine).name == name
    assert pick_profile(list_profiles()[::-1], machine).name == name
    assert select_profile("auto", machine).name == name


def test_auto_threads_are_the_physical_cores() -> None:
    assert resolve_profile(load_profile("cpu-generic"), PLAIN).threads == 4
    assert resolve_profile(load_profile("jetson-orin-nano-8gb"), PLAIN).threads == 6


def test_budget_is_a_share_of_what_is_available_under_the_profiles_cap() -> None:
    assert resolve_profile(load_profile("cpu-generic"), PLAIN).budget_bytes == int(10 * GIB * 0.8)
    assert resolve_profile(load_profile("jetson-orin-nano-8gb"), PLAIN).budget_bytes == 6 * GIB
    small = replace(PLAIN, available_bytes=4 * GIB)
    assert resolve_profile(load_profile("jetson-orin-nano-8gb"), small).budget_bytes == int(4 * GIB * 0.85)


def test_unknown_name_is_refused() -> None:
    with pytest.raises(ProfileError, match="no device profile"):
        select_profile("toaster", PLAIN)
