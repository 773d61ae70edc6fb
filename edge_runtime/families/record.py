"""Records of a bundle's manifest: strict structs, and checks of what their types cannot say.

Every check raises `BundleError` with the field's name.
"""

from __future__ import annotations

import math

import msgspec

from edge_runtime.errors import BundleError


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of every manifest record: strict. mypy wants `frozen` and `kw_only` said again by every heir."""


def check_whole(name: str, value: int, low: int, high: int) -> None:
    """A whole number from `low` to `high`."""
    if not low <= value <= high:
        refuse(name, value, f"a whole number from {low} to {high}" if low < high else str(low))


def check_number(name: str, value: float, low: float, high: float) -> None:
    """A finite number from `low` to `high`."""
    if not math.isfinite(value) or not low <= value <= high:
        refuse(name, value, f"a number from {low:g} to {high:g}" if math.isfinite(high) else "a finite number")


def refuse(name: str, value: object, wanted: str) -> None:
    """Raise `BundleError`: what a field is, and what it must be."""
    raise BundleError(f"{name} is {value}; it must be {wanted}")
