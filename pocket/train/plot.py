"""Draws the loss curves of all phases from their logs, with Pillow only."""

import json
from pathlib import Path

from PIL import Image, ImageDraw

_COLORS = {"answer": (190, 30, 45), "letter": (20, 90, 190), "code": (20, 130, 70), "read": (200, 120, 0)}
_WIDTH, _HEIGHT, _MARGIN = 420, 260, 40


def plot(folder: Path) -> Path:
    """Writes `folder/losses.png`, one panel per phase, losses from 0 to 3; returns its path."""
    logs = [path for name in ("vision", "language", "joint") if (path := folder / name / "log.jsonl").exists()]
    image = Image.new("RGB", (_WIDTH * max(1, len(logs)), _HEIGHT), "white")
    draw = ImageDraw.Draw(image)
    for panel, log in enumerate(logs):
        records = [json.loads(line) for line in log.read_text().splitlines()]
        left, right = panel * _WIDTH + _MARGIN, (panel + 1) * _WIDTH - 10
        draw.rectangle((left, 20, right, _HEIGHT - _MARGIN), outline="gray")
        draw.text(
            (left, 4), f"{log.parent.name}: {records[-1]['step']} steps, {records[-1]['elapsed_s']:.0f} s", fill="black"
        )
        end = max(record["elapsed_s"] for record in records)
        for index, (name, color) in enumerate(_COLORS.items()):
            points = [(left + (right - left) * r["elapsed_s"] / end, _level(r[name])) for r in records if name in r]
            if len(points) > 1:
                draw.line(points, fill=color, width=2)
                draw.text((left + index * 60, _HEIGHT - _MARGIN + 8), name, fill=color)
    path = folder / "losses.png"
    image.save(path)
    return path


def _level(loss: float) -> float:
    return _HEIGHT - _MARGIN - min(1.0, loss / 3) * (_HEIGHT - _MARGIN - 20)
