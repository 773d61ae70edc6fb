"""What every training phase shares: a time budget, checkpoints that survive a kill at any second, and a log."""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

_MAX_STEP_S = 10.0  # a step that took longer was paused: a sleeping laptop, a stopped process


@dataclass(slots=True)
class Run:
    """One phase in one folder. Mutated by `tick`; `elapsed_s` goes on where the last process stopped."""

    folder: Path
    budget_s: float
    save_every_s: float = 120.0
    step: int = 0
    elapsed_s: float = 0.0
    _last: float = field(default_factory=time.monotonic)
    _saved: float = field(default_factory=time.monotonic)

    @property
    def checkpoint(self) -> Path:
        """Where the phase keeps its last state."""
        return self.folder / "last.pt"

    def resume(self) -> dict[str, Any] | None:
        """The last checkpoint's content, after taking over its step and elapsed time; None for a fresh start."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.checkpoint.exists():
            return None
        state: dict[str, Any] = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        self.step, self.elapsed_s = state["step"], state["elapsed_s"]
        return state

    def factor(self, warmup: int = 50, flat: float = 0.2) -> float:
        """Learning-rate factor: linear warm-up in steps, flat for a share of the budget, then linear to zero."""
        done = self.elapsed_s / self.budget_s
        return min(1.0, (self.step + 1) / warmup) * max(0.0, min(1.0, (1 - done) / (1 - flat)))

    def tick(self) -> bool:
        """Counts a finished step; False when the budget is spent. Pauses are not counted."""
        now = time.monotonic()
        self.elapsed_s += min(now - self._last, _MAX_STEP_S)
        self._last = now
        self.step += 1
        return self.elapsed_s < self.budget_s

    def save_due(self) -> bool:
        """Whether it is time for a checkpoint."""
        return time.monotonic() - self._saved > self.save_every_s

    def save(self, state: dict[str, Any]) -> None:
        """Writes a checkpoint so that a kill leaves the old one or the new one, never half of one."""
        temporary = self.checkpoint.with_suffix(".tmp")
        torch.save({**state, "step": self.step, "elapsed_s": self.elapsed_s}, temporary)
        temporary.replace(self.checkpoint)
        self._saved = time.monotonic()

    def log(self, **values: float) -> None:
        """Appends one line to the phase's log and prints it."""
        record = {
            "step": self.step,
            "elapsed_s": round(self.elapsed_s, 1),
            **{k: round(v, 4) for k, v in values.items()},
        }
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")
        print(json.dumps(record), flush=True)
