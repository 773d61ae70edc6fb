"""Batches of painted screens with dense labels, made on the fly by worker processes. Reproducible by seed and index."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from pocket.screens.archive import by_size, read
from pocket.screens.labels import DenseLabels, dense_labels
from pocket.screens.painter import paint
from pocket.screens.shift import shift_down
from pocket.screens.templates import compose, dense_page
from pocket.screens.words import Phrases
from pocket.train.heads import DenseBatch

SIZES = ((384, 256), (256, 256), (256, 384), (320, 256), (384, 320), (512, 320), (320, 224), (448, 256))
LARGE = ((640, 384), (768, 512))  # seldom: they cost most
_TOKENS = 800  # per batch
SMALL_SIZES = ((128, 64), (160, 64), (128, 96), (192, 96), (160, 128), (192, 128), (256, 96), (256, 128))


@dataclass(frozen=True, slots=True)
class ImageBatch:
    """uint8 images [B, H, W, 3] and their dense labels."""

    images: Tensor
    labels: DenseBatch


def random_size(rng: Random) -> tuple[int, int]:
    """Width and height of a batch of screens: large ones in one batch of twenty-five."""
    return rng.choice(LARGE if rng.random() < 0.04 else SIZES)


def random_shift(rng: Random, free: float) -> int:
    """How far to move a screen down: anything below a text row for a share `free` of them, else not at all."""
    return rng.randrange(16) if rng.random() < free else 0


def stack_labels(labels: list[DenseLabels]) -> DenseBatch:
    """Dense labels of equally sized screens as tensors."""
    return DenseBatch(
        torch.from_numpy(np.stack([one.chars for one in labels])),
        torch.from_numpy(np.stack([one.kind for one in labels])),
        torch.from_numpy(np.stack([one.state for one in labels])),
        torch.from_numpy(np.stack([one.place for one in labels])),
    )


class Screens(IterableDataset[ImageBatch]):
    """Batches of about 800 tokens times `scale`. Batch number `i` depends on `seed` and `i` only.

    Most pages are packed with text; a fifth of the batches come from the archive of Chromium pages, if there is one.
    """

    def __init__(self, seed: int, start: int, scale: int, pages: Path | None, free: float = 0.0) -> None:
        self.seed, self.start, self.scale, self.pages, self.free = seed, start, scale, pages, free

    def __iter__(self) -> Iterator[ImageBatch]:
        info = torch.utils.data.get_worker_info()
        if info:  # in the training process itself that would slow the training down
            torch.set_num_threads(1)
        offset, stride = (info.id, info.num_workers) if info else (0, 1)
        index = self.start + offset
        phrases = Phrases("train")
        groups = by_size(read(self.pages)) if self.pages else []
        while True:
            rng = Random(f"{self.seed}/{index}")
            if groups and rng.random() < 0.2:
                group = rng.choice(groups)
                rendered = rng.sample(group, min(len(group), self._count(group[0][1].width, group[0][1].height)))
            else:
                width, height = random_size(rng)
                makers = (dense_page, dense_page, dense_page, compose, compose)
                rendered = [
                    paint(rng.choice(makers)(rng, phrases, width, height), gamma=rng.uniform(0.75, 1.1))
                    for _ in range(self._count(width, height))
                ]
            rendered = [shift_down(one, random_shift(rng, self.free)) for one in rendered]
            images = [torch.from_numpy(pixels) for pixels, _ in rendered]
            labels = [dense_labels(screen) for _, screen in rendered]
            yield ImageBatch(torch.stack(images), stack_labels(labels))
            index += stride

    def _count(self, width: int, height: int) -> int:
        return max(1, self.scale * _TOKENS * 1024 // (width * height))
