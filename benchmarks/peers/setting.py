"""What both benchmarks of peers stand on: the random checkpoint, facts about the machine, progress in words."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
from pathlib import Path

from benchmarks.peers.measure import Workplace


def random_checkpoint(place: Workplace, size: str) -> Path:
    """A random checkpoint of a published size; made once."""
    from edge_export.random_checkpoint import config_for, write_random_checkpoint  # noqa: PLC0415

    folder = place.folder("checkpoints") / size
    if not folder.exists():
        say(f"writing a random checkpoint of size {size}")
        unfinished = folder.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        write_random_checkpoint(unfinished, config_for(size), dtype="bfloat16")
        unfinished.rename(folder)
    return folder


def machine() -> dict[str, object]:
    """What ran this, and when."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "processor": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": platform.platform(),
    }


def say(text: str) -> None:
    """Progress, with the time, on stderr."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()
