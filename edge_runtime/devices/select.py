"""From a profile and a machine to plain numbers: every "auto" is resolved here, by pure functions, into a new value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.devices.probe import Machine
from edge_runtime.devices.profile import DeviceProfile, ExecutionProvider, KVDtype, list_profiles, load_profile

FALLBACK_PROFILE = "cpu-generic"


@dataclass(frozen=True, slots=True)
class ResolvedProfile:
    """A device profile with nothing left open; what the memory planner and the model loader take."""

    name: str
    threads: int
    budget_bytes: int
    context_tokens: int
    max_pixels: int
    max_chats: int
    prefill_chunk_tokens: int
    kv_dtypes: tuple[KVDtype, ...]
    execution_providers: tuple[ExecutionProvider, ...]


def select_profile(name_or_path: str | Path, machine: Machine) -> ResolvedProfile:
    """Load the profile of that name or file ("auto": the one that suits `machine` best) and resolve it.

    Raises `ProfileError` if there is no such profile or it is malformed.
    """
    if name_or_path == "auto":
        return resolve_profile(pick_profile(list_profiles(), machine), machine)
    return resolve_profile(load_profile(name_or_path), machine)


def resolve_profile(profile: DeviceProfile, machine: Machine) -> ResolvedProfile:
    """Fill in what the profile leaves to the machine: threads, and the memory budget in bytes."""
    budget_bytes = int(machine.available_bytes * profile.memory.available_fraction)
    if profile.memory.max_budget_bytes is not None:
        budget_bytes = min(budget_bytes, profile.memory.max_budget_bytes)
    return ResolvedProfile(
        name=profile.name,
        threads=machine.physical_cores if profile.cpu.threads == "auto" else profile.cpu.threads,
        budget_bytes=budget_bytes,
        context_tokens=profile.limits.context_tokens,
        max_pixels=profile.limits.max_pixels,
        max_chats=profile.limits.max_chats,
        prefill_chunk_tokens=profile.limits.prefill_chunk_tokens,
        kv_dtypes=profile.limits.kv_dtypes,
        execution_providers=profile.execution.providers,
    )


def pick_profile(profiles: Sequence[DeviceProfile], machine: Machine) -> DeviceProfile:
    """The profile that says most about `machine` among those that contradict nothing about it.

    A matching board model outweighs everything; then the number of matching CPU features; then the fixed
    architecture; `cpu-generic` matches every machine.
    """
    matching = [profile for profile in profiles if _matches(profile, machine)]
    return max(matching, key=_specificity)


def _matches(profile: DeviceProfile, machine: Machine) -> bool:
    cpu = profile.cpu
    return (
        cpu.arch in ("any", machine.arch)
        and set(cpu.features) <= machine.cpu_features
        and (cpu.model_hint is None or cpu.model_hint.lower() in machine.model.lower())
    )


def _specificity(profile: DeviceProfile) -> tuple[bool, int, bool]:
    cpu = profile.cpu
    return (cpu.model_hint is not None, len(cpu.features), cpu.arch != "any")
