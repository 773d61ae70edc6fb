"""`python -m benchmarks.peers.plot OUT.svg RESULT.json ...`: what turns of the loop cost, a panel per result.

The results are those of `loop.py`. Shown are seconds to the first token over turns, on a logarithmic scale. Needs
nothing but the standard library.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from html import escape
from math import ceil, floor, log10
from pathlib import Path
from typing import Any

WIDTH, HEIGHT = 470, 360
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 34, 92
COLOURS = ("#0b6e4f", "#c1121f", "#1d4e89", "#8a5a00", "#6a4c93", "#555555")
MOST_NAMED_TURNS = 16
"""Where there are more, turns have numbers instead of what happens in them."""


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.plot", description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("results", type=Path, nargs="+")
    arguments = parser.parse_args()
    arguments.out.write_text(plot([json.loads(path.read_text()) for path in arguments.results]))


def plot(results: Sequence[dict[str, Any]]) -> str:
    """The SVG, on white, so that it can be read on a dark page too."""
    names = list(dict.fromkeys(name for result in results for name in result["contenders"]))
    colours = {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(names)}
    width = WIDTH * len(results)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT}" font-family="sans-serif" '
        f'font-size="11"><rect width="{width}" height="{HEIGHT}" fill="white"/>'
    ]
    for index, result in enumerate(results):
        parts += [f'<g transform="translate({index * WIDTH} 0)">', *_panel(result, colours), "</g>"]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(result: dict[str, Any], colours: dict[str, str]) -> Iterator[str]:
    lines = {
        name: [float(turn["first_token_s"]) for turn in one["turns"]]
        for name, one in result["contenders"].items()
        if one["turns"]
    }
    seconds = [value for line in lines.values() for value in line]
    low, high = floor(log10(min(seconds))), ceil(log10(max(seconds)))
    high += low == high
    kinds, right, bottom = result["kinds"], WIDTH - RIGHT, HEIGHT - BOTTOM

    def x_of(turn: int) -> float:
        return LEFT + (right - LEFT) * (turn + 0.5) / len(kinds)

    def y_of(value: float) -> float:
        return bottom - (bottom - TOP) * (log10(value) - low) / (high - low)

    yield _text(f"{result['scene']}: seconds to the first token", LEFT, TOP - 14, "start", "bold")
    for power in range(low, high + 1):
        y = y_of(10.0**power)
        yield f'<path d="M{LEFT} {y:.1f}H{right}" stroke="#ccc"/>'
        yield _text(f"{10.0**power:g}", LEFT - 6, y + 4, "end")
    if len(kinds) <= MOST_NAMED_TURNS:
        for turn, kind in enumerate(kinds):
            place = f"translate({x_of(turn):.1f} {bottom + 10}) rotate(-30)"
            yield f'<text transform="{place}" text-anchor="end">{escape(kind)} {turn + 1}</text>'
    else:
        for turn in range(9, len(kinds), 10):
            yield _text(f"turn {turn + 1}", x_of(turn), bottom + 16, "middle")
    for row, (name, line) in enumerate(lines.items()):
        points = [(x_of(turn), y_of(value)) for turn, value in enumerate(line)]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        yield f'<path d="M{path}" fill="none" stroke="{colours[name]}" stroke-width="1.5"/>'
        yield from (f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.2" fill="{colours[name]}"/>' for x, y in points)
        legend_x, legend_y = LEFT + 8 + 210 * (row % 2), HEIGHT - 30 + 14 * (row // 2)
        yield f'<rect x="{legend_x}" y="{legend_y - 7}" width="14" height="3" fill="{colours[name]}"/>'
        yield _text(name, legend_x + 20, legend_y, "start")


def _text(text: str, x: float, y: float, anchor: str, weight: str = "normal") -> str:
    style = f'text-anchor="{anchor}" font-weight="{weight}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(text, quote=False)}</text>'


if __name__ == "__main__":
    main()
