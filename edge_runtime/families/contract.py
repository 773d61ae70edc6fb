"""What a graph takes and gives, as data: the names, types and shapes that docs/bundle.md lists."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

FLOAT, INT64, INT32 = "tensor(float)", "tensor(int64)", "tensor(int32)"

Shape = tuple[int | None, ...]
"""Sizes; None is one that differs from run to run."""


@dataclass(frozen=True, slots=True)
class Contract:
    """Inputs and outputs of one graph: name to type and shape."""

    inputs: Mapping[str, tuple[str, Shape]]
    outputs: Mapping[str, tuple[str, Shape]]
