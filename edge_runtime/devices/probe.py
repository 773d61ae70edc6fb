"""What this machine is: processor, cores, and the memory this process may use. Knows nothing of profiles.

Containers lie about memory: `/proc/meminfo` shows the host's. The limits of the control groups, versions 1 and 2, are
read too, and the tightest one counts.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

_CGROUP_V2_FILES = ("memory.max", "memory.current", "inactive_file")
_CGROUP_V1_FILES = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
"""Limit and use; and the line of `memory.stat` with the page cache that the kernel gives up before it runs out."""


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine as this process sees it."""

    arch: str
    """"x86_64", "aarch64", or what else `platform.machine()` says."""
    model: str
    """The board's name where it has one (Raspberry Pi, Jetson), else the processor's; may be empty."""
    cpu_features: frozenset[str]
    """Instruction set extensions in the spelling of /proc/cpuinfo; empty where there is none."""
    physical_cores: int
    """Cores this process may use, hyperthreads not counted."""
    total_bytes: int
    available_bytes: int


def probe_machine(root: Path = Path("/")) -> Machine:
    """Read the facts of this machine; `root` is where `proc` and `sys` lie."""
    cpuinfo = _read_text(root / "proc/cpuinfo")
    memory = psutil.virtual_memory()
    limits = list(_cgroup_limits(root))
    return Machine(
        arch={"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine()),
        model=_read_text(root / "proc/device-tree/model").rstrip("\0\n") or _cpuinfo_value(cpuinfo, "model name"),
        cpu_features=frozenset((_cpuinfo_value(cpuinfo, "flags") or _cpuinfo_value(cpuinfo, "Features")).split()),
        physical_cores=_usable_cores(),
        total_bytes=min([memory.total, *(limit for limit, _ in limits)]),
        available_bytes=min([memory.available, *(max(limit - used, 0) for limit, used in limits)]),
    )


def _usable_cores() -> int:
    """Physical cores, and no more than the affinity mask of this process allows."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(min(psutil.cpu_count(logical=False) or allowed, allowed), 1)


def _cgroup_limits(root: Path) -> Iterator[tuple[int, int]]:
    """(limit, used) bytes of every control group above this process that has a memory limit.

    A file once read counts as used until somebody needs the memory: that much is taken off again.
    """
    for line in _read_text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            yield from _limits_up_from(root / "sys/fs/cgroup", path, _CGROUP_V2_FILES)
        elif "memory" in controllers.split(","):
            yield from _limits_up_from(root / "sys/fs/cgroup/memory", path, _CGROUP_V1_FILES)


def _limits_up_from(mount: Path, path: str, names: tuple[str, str, str]) -> Iterator[tuple[int, int]]:
    """Limits of the group at `path` and of its parents; in a container often only the mount itself exists."""
    group = mount / path.lstrip("/")
    while group.is_relative_to(mount):
        limit, used = (_read_text(group / name).strip() for name in names[:2])
        # Version 2 writes "max" for no limit; version 1 a number near 2**63, which min() makes harmless.
        if limit.isdigit() and used.isdigit():
            yield int(limit), max(int(used) - _stat_value(_read_text(group / "memory.stat"), names[2]), 0)
        group = group.parent


def _stat_value(stat: str, key: str) -> int:
    """Value of the line of that key of a `memory.stat`, or 0."""
    for line in stat.splitlines():
        name, _, value = line.partition(" ")
        if name == key and value.strip().isdigit():
            return int(value)
    return 0


def _cpuinfo_value(cpuinfo: str, key: str) -> str:
    """Value of the first line of that key, or an empty string."""
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


def _read_text(path: Path) -> str:
    """The file's text; empty where it does not exist or may not be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
