"""The probe, on made-up /proc and /sys trees: control group limits of both versions, boards, processors."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from edge_runtime.devices.probe import probe_machine

GIB = 2**30


def write_files(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_this_machine() -> None:
    machine = probe_machine()
    assert machine.physical_cores >= 1
    assert 0 < machine.available_bytes <= machine.total_bytes
    assert machine.arch


def test_nothing_to_read_leaves_what_psutil_knows(tmp_path: Path) -> None:
    machine = probe_machine(tmp_path)
    assert machine.total_bytes == psutil.virtual_memory().total
    assert (machine.model, machine.cpu_features) == ("", frozenset())


@pytest.mark.parametrize(
    "files",
    [
        # version 2, the limit in this group, in a parent, and seen from inside a container (only the mount exists)
        {
            "proc/self/cgroup": "0::/user/app\n",
            "sys/fs/cgroup/user/app/memory.max": f"{GIB}\n",
            "sys/fs/cgroup/user/app/memory.current": f"{GIB // 4}\n",
        },
        {
            "proc/self/cgroup": "0::/user/app\n",
            "sys/fs/cgroup/user/app/memory.max": "max\n",
            "sys/fs/cgroup/user/app/memory.current": "123\n",
            "sys/fs/cgroup/user/memory.max": f"{GIB}\n",
            "sys/fs/cgroup/user/memory.current": f"{GIB // 4}\n",
        },
        {
            "proc/self/cgroup": "0::/../../gone\n",
            "sys/fs/cgroup/memory.max": f"{GIB}\n",
            "sys/fs/cgroup/memory.current": f"{GIB // 4}\n",
        },
        # version 1
        {
            "proc/self/cgroup": "5:cpu,cpuacct:/\n4:memory:/docker/abc\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{GIB}\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{GIB // 4}\n",
        },
    ],
    ids=["v2", "v2-parent", "v2-container", "v1"],
)
def test_control_group_limit_counts(tmp_path: Path, files: dict[str, str]) -> None:
    machine = probe_machine(write_files(tmp_path, files))
    assert machine.total_bytes == GIB
    assert machine.available_bytes == GIB - GIB // 4


@pytest.mark.parametrize("version", [1, 2])
def test_page_cache_that_can_be_given_up_is_available(tmp_path: Path, version: int) -> None:
    folder, limit, used, key = {
        1: ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        2: ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    }[version]
    files = {
        "proc/self/cgroup": "4:memory:/\n" if version == 1 else "0::/\n",
        f"{folder}/{limit}": f"{GIB}\n",
        f"{folder}/{used}": f"{GIB // 2}\n",
        f"{folder}/memory.stat": f"anon 7\n{key} {GIB // 4}\nactive_file 9\n",
    }
    assert probe_machine(write_files(tmp_path, files)).available_bytes == GIB - GIB // 4


def test_version_1_without_a_limit_changes_nothing(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "4:memory:/\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "1000\n",
    }
    assert probe_machine(write_files(tmp_path, files)).total_bytes == psutil.virtual_memory().total


def test_full_control_group_has_nothing_available(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/\n",
        "sys/fs/cgroup/memory.max": "1000\n",
        "sys/fs/cgroup/memory.current": "2000\n",
    }
    assert probe_machine(write_files(tmp_path, files)).available_bytes == 0


def test_processor_and_board_names(tmp_path: Path) -> None:
    x86 = write_files(
        tmp_path / "x86", {"proc/cpuinfo": "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu avx2\n"}
    )
    assert probe_machine(x86).model == "Some CPU"
    assert probe_machine(x86).cpu_features == {"fpu", "avx2"}
    arm = write_files(
        tmp_path / "arm",
        {"proc/cpuinfo": "Features\t: fp asimddp\n", "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0"},
    )
    assert probe_machine(arm).model == "Raspberry Pi 5 Model B Rev 1.0"
    assert probe_machine(arm).cpu_features == {"fp", "asimddp"}
