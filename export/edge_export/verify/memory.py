"""How much memory a reference may take, measured before it is taken."""

from __future__ import annotations

from pathlib import Path

import psutil

from edge_export.checkpoint.weights import open_weights
from edge_export.errors import OptionError
from edge_runtime.devices.memory import format_bytes


def available_bytes() -> int:
    """Memory this process can have without swapping."""
    return int(psutil.virtual_memory().available)


def numpy_cache_bytes() -> int:
    """What the numpy reference may keep of converted weights: half of what is there."""
    return available_bytes() // 2


def require_for_optimum(source: Path) -> None:
    """Raise `OptionError` if tracing the checkpoint at `source` would not fit.

    torch holds the weights in fp32, and the exporter holds them once more while it writes the graph.
    """
    weights = open_weights(source)
    needed = 2 * 4 * sum(entry.size for entry in weights.entries.values())
    if needed > available_bytes():
        raise OptionError(
            f"the optimum reference of {source} needs about {format_bytes(needed)} of memory, and "
            f"{format_bytes(available_bytes())} are free; use --reference numpy, which reads weights as it needs them"
        )
