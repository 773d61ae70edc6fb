"""The training loop that all phases share: batches in, losses out, checkpoints and logs on the way."""

import argparse
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from pocket.screens.fonts import use_fonts
from pocket.train.optimizer import Optimizers
from pocket.train.run import Run

Batch = TypeVar("Batch")
LOG_EVERY = 25


@dataclass(frozen=True, slots=True)
class Settings:
    """Where and how to train. `scale` multiplies batch sizes; `pages` is an archive of Chromium pages or None.

    `free` is the share of screens whose text lies anywhere, not on 16-pixel rows: harder, for when time is plentiful.
    """

    device: str
    threads: int
    workers: int
    scale: int
    pages: Path | None
    fonts: Path | None
    free: float

    def apply(self) -> None:
        """Sets torch's threads and the fonts of this process; worker processes inherit the fonts."""
        torch.set_num_threads(self.threads)
        torch.set_float32_matmul_precision("high")
        if self.fonts:
            use_fonts(self.fonts)


def add_settings(parser: argparse.ArgumentParser) -> None:
    """The command-line options behind `Settings`."""
    cuda = torch.cuda.is_available()
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if cuda else "cpu")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the training process")
    parser.add_argument("--workers", type=int, default=1, help="processes that paint screens")
    parser.add_argument("--scale", type=int, default=8 if cuda else 1, help="batch size factor")
    parser.add_argument("--pages", type=Path, help="archive of Chromium pages to mix in, see pocket.train.pages")
    parser.add_argument(
        "--free", type=float, default=0.5 if cuda else 0.0, help="share of screens off the 16-pixel rows"
    )
    parser.add_argument("--fonts", type=Path, help="folder of font files, where Debian's packages are not installed")


def settings_of(options: argparse.Namespace) -> Settings:
    """`Settings` from parsed options."""
    return Settings(
        options.device, options.threads, options.workers, options.scale, options.pages, options.fonts, options.free
    )


def batches(dataset: IterableDataset[Batch], settings: Settings) -> DataLoader[Batch]:
    """Batches as they come; made by worker processes."""
    workers = settings.workers
    return DataLoader(dataset, batch_size=None, num_workers=workers, prefetch_factor=2 if workers else None)


def moved(value: Any, device: str) -> Any:
    """A copy of a batch (nested dataclasses of tensors) on `device`."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if is_dataclass(value) and not isinstance(value, type):
        return type(value)(*(moved(getattr(value, field.name), device) for field in fields(value)))
    return value


def train(  # noqa: PLR0913, PLR0917 - what a phase is made of
    run: Run,
    settings: Settings,
    parts: dict[str, nn.Module],
    optimizers: Optimizers,
    source: Iterable[Batch],
    losses_of: Callable[[Batch], dict[str, Tensor]],
    around: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> None:
    """Trains until the run's budget is spent. `losses_of` returns the `total` to minimize and what else to log.

    Losses and gradients are computed inside what `around` returns. Mutates the modules in `parts`, which are also what
    a checkpoint holds.
    """
    sums: dict[str, Tensor] = {}
    counts: Counter[str] = Counter()  # batches may differ in what they have losses of
    since, logged = run.elapsed_s, run.step
    for batch in source:
        with around():
            with torch.autocast(settings.device, dtype=torch.bfloat16):
                losses = losses_of(moved(batch, settings.device))
            torch.autograd.backward(losses["total"])
        optimizers.step(run.factor())
        for name, value in losses.items():  # stays on the device: reading a value would wait for it
            sums[name] = sums.get(name, torch.zeros((), device=value.device)) + value.detach()
            counts[name] += 1
        going = run.tick()
        if run.step % LOG_EVERY == 0:
            means = {name: float(value) / counts[name] for name, value in sums.items()}
            run.log(**means, steps_s=(run.step - logged) / max(1e-9, run.elapsed_s - since))
            sums, counts, since, logged = {}, Counter(), run.elapsed_s, run.step
        if run.save_due() or not going:
            state = {name: part.state_dict() for name, part in parts.items()}
            run.save({**state, "optimizers": optimizers.state_dict()})
        if not going:
            return
    raise RuntimeError("the data source ended before the training budget did")


def restore(run: Run, parts: dict[str, nn.Module], optimizers: Optimizers) -> bool:
    """Goes on from the run's checkpoint, if it has one; returns whether it did."""
    state = run.resume()
    if state is None:
        return False
    for name, part in parts.items():
        part.load_state_dict(state[name])
    optimizers.load_state_dict(state["optimizers"])
    return True
