"""From the numbers in which models say places to pixels. The one rule for it (decision 74)."""

from __future__ import annotations


def pixel(value: float, size: int, divisor: int) -> int:
    """The pixel, 0 to `size` - 1, that holds the place `value` on a scale of 0 to `divisor` over `size` pixels.

    What lies past the end of the scale belongs to the last pixel.
    """
    return min(int(float(value) * size / divisor), size - 1)
