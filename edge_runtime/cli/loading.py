"""`PlannedBundle` as scripts outside this repository know it: with a method `model_info`.

The engine's own class cannot have it: what is said on the wire is `serving`'s, which the engine does not know.
"""

from __future__ import annotations

from edge_runtime.engine import load
from edge_runtime.serving.messages import ModelInfo
from edge_runtime.serving.model_info import model_info


class PlannedBundle(load.PlannedBundle):
    """A planned bundle, and what a server says of it."""

    __slots__ = ()

    def model_info(self) -> ModelInfo:
        """What a server tells about the model."""
        return model_info(self)
