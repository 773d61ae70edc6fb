"""Where scripts outside this repository find pocket's checkpoint: its home is `edge_runtime.model.pocket`."""

from __future__ import annotations

from edge_runtime.model.pocket import checkpoint

__all__ = ["checkpoint"]
