"""Batches of chats about random screens, with or without pixels. Reproducible by seed and batch number."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from pocket.screens.archive import Rendered, by_size, read
from pocket.screens.changes import pair
from pocket.screens.labels import dense_labels
from pocket.screens.painter import measure, paint
from pocket.screens.questions import Turn, ask, ask_change
from pocket.screens.shift import room_below, shift_down
from pocket.screens.templates import compose
from pocket.screens.words import Phrases
from pocket.train.conversations import Chat, ChatBatch, build_chat, stack_chats
from pocket.train.heads import DenseBatch
from pocket.train.images import SMALL_SIZES, random_shift, random_size, stack_labels

_PAIRS = 0.25  # share of painted batches about two screenshots
_CHROMIUM = 0.33  # share of batches from the archive of Chromium pages
_AVERAGE = 384 * 256  # pixels
_NO_PIXELS = np.zeros((0, 0, 3), np.uint8)


@dataclass(frozen=True, slots=True)
class ScreenChats:
    """Chats about equally sized screens. Images and labels come in the order in which the chats mention them."""

    chats: ChatBatch
    labels: DenseBatch
    images: Tensor | None


class Chats(IterableDataset[ScreenChats]):
    """Batch number `i` depends on `seed` and `i` only; `pixels` asks for painted screens as well.

    A share `small` of the batches is about small screens, on which where to look is learned first. With an archive of
    Chromium `pages`, a third of the others are about them.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - what a batch depends on
        self,
        seed: int,
        start: int,
        screens: int,
        pixels: bool,
        small: float,
        pages: Path | None = None,
        free: float = 0.0,
    ) -> None:
        self.seed, self.start, self.screens, self.pixels = seed, start, screens, pixels
        self.small, self.pages, self.free = small, pages, free

    def batch(self, index: int, phrases: Phrases, groups: list[list[Rendered]]) -> ScreenChats:
        """Batch `index`: chats about `screens` screens of average size, fewer of large ones; all of one size."""
        rng = Random(f"chats/{self.seed}/{index}")
        small = rng.random() < self.small
        if groups and not small and rng.random() < _CHROMIUM:
            group = rng.choice(groups)
            count = self._count(group[0][1].width, group[0][1].height, 1)
            pages = rng.sample(group, min(len(group), count))
            stories: list[tuple[list[Rendered], list[Turn]]] = [([page], []) for page in pages]
        else:
            size = rng.choice(SMALL_SIZES) if small else random_size(rng)
            two = rng.random() < _PAIRS
            count = self._count(*size, 2 if two else 1)
            stories = [self._story(rng, phrases, size, two) for _ in range(count)]
        chats: list[Chat] = []
        rendered: list[Rendered] = []
        for story, told in stories:
            down = random_shift(rng, self.free)
            if told:  # what they name must stay in sight
                down = min(down, *(room_below(screen) for _, screen in story))
            shown = [shift_down(one, down) for one in story]
            rendered += shown
            screen = shown[-1][1]
            turns = [*told, *ask(rng, screen, phrases, 6 if told else 12)]
            if small:
                turns = [turn for turn in turns if turn.task != "text"] or turns
            rng.shuffle(turns)
            chats.append(build_chat(rng, turns, [one for _, one in shown], 120 if small else 300))
        labels = stack_labels([dense_labels(screen) for _, screen in rendered])
        images = torch.stack([torch.from_numpy(pixels) for pixels, _ in rendered]) if self.pixels else None
        return ScreenChats(stack_chats(chats), labels, images)

    def _count(self, width: int, height: int, images: int) -> int:
        """How many chats of so many images of that size make a batch: twice as many as `screens` of the smallest."""
        return max(1, min(2 * self.screens, self.screens * _AVERAGE // (width * height)) // images)

    def _story(
        self, rng: Random, phrases: Phrases, size: tuple[int, int], two: bool
    ) -> tuple[list[Rendered], list[Turn]]:
        """One screen, or two and the question what changed between them."""
        page = compose(rng, phrases, *size)
        pages, turns = [page], []
        if two:
            before, after, sentence = pair(rng, phrases, page)
            pages, turns = [before, after], [ask_change(rng, sentence)]
        gamma = rng.uniform(0.75, 1.1)
        return [paint(one, gamma) if self.pixels else (_NO_PIXELS, measure(one)) for one in pages], turns

    def __iter__(self) -> Iterator[ScreenChats]:
        info = torch.utils.data.get_worker_info()
        if info:  # in the training process itself that would slow the training down
            torch.set_num_threads(1)
        offset, stride = (info.id, info.num_workers) if info else (0, 1)
        phrases = Phrases("train")
        index = self.start + offset
        groups = by_size(read(self.pages)) if self.pages else []
        while True:
            yield self.batch(index, phrases, groups)
            index += stride
