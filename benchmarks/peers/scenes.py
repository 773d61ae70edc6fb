"""What an agent's loop is about: screens, and questions about them, the same in every run. Knows no contender."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_runtime.bench.questions import QUESTION_TOKENS, digits, screenshot

if TYPE_CHECKING:
    from pocket.screens.screen import Screen

SYSTEM_TOKENS = 128


class Scene(Protocol):
    """Numbered screens, each before and after a change, and questions."""

    @property
    def system(self) -> str | None:
        """What is said before everything."""

    @property
    def answer_tokens(self) -> int:
        """Most tokens of an answer."""

    @property
    def fixed_answers(self) -> bool:
        """Whether answers have that length exactly, and the history `stand_in` in their place, alike for everybody.

        Random weights answer in tokens that are no text.
        """

    def stand_in(self, turn: int) -> str:
        """What the history has in place of that turn's answer."""

    def screen(self, number: int, changed: bool) -> Path:
        """The PNG file of a screen."""

    def question(self, turn: int, number: int, changed: bool) -> str:
        """What is asked in that turn about that screen."""


@dataclass(frozen=True, slots=True)
class Desktop:
    """Made-up desktops and digits: for weights that are random."""

    folder: Path
    width: int
    height: int
    answer_tokens: int
    system: str | None = digits(SYSTEM_TOKENS, 0)
    fixed_answers: bool = True

    def stand_in(self, turn: int) -> str:
        """Digits."""
        return digits(self.answer_tokens, -1 - turn)

    def screen(self, number: int, changed: bool) -> Path:
        """A desktop; changed, another window lies on it."""
        path = self.folder / f"{self.width}x{self.height}-{number}{'-changed' if changed else ''}.png"
        if not path.exists():
            image = screenshot(self.width, self.height, number)
            if changed:
                high, wide = self.height // 4, self.width // 4
                image[high : 2 * high, wide : 2 * wide] = screenshot(wide, high, 1000 + number)
            cv2.imwrite(str(path), image)
        return path

    def question(self, turn: int, number: int, changed: bool) -> str:  # noqa: ARG002 - whatever it shows
        """Digits."""
        return digits(QUESTION_TOKENS, turn)


@dataclass(frozen=True, slots=True)
class PocketScreens:
    """Screens of pocket's held-out world and questions that it was made for; answers end where they end."""

    folder: Path
    width: int = 384
    height: int = 256
    answer_tokens: int = 40
    system: str | None = None
    fixed_answers: bool = False

    def stand_in(self, turn: int) -> str:
        """None: pocket answers in words."""
        raise NotImplementedError

    def screen(self, number: int, changed: bool) -> Path:
        """A painted screen, before or after a change."""
        path = self.folder / f"pocket-{number}{'-changed' if changed else ''}.png"
        if not path.exists():
            cv2.imwrite(str(path), cv2.cvtColor(self._paint(number, changed)[0], cv2.COLOR_RGB2BGR))
        return path

    def question(self, turn: int, number: int, changed: bool) -> str:
        """Where something is, what something says, what the title is."""
        from pocket.screens.questions import ask_click, ask_point, ask_read, ask_title  # noqa: PLC0415
        from pocket.screens.words import Phrases  # noqa: PLC0415

        rng, screen = Random(f"loop/question/{turn}"), self._paint(number, changed)[1]
        asks = [ask_point, ask_read, ask_click, ask_title]
        rng.shuffle(asks)
        turns = (ask(rng, screen, Phrases("heldout")) for ask in asks)
        return next(found.question for found in turns if found is not None)

    def _paint(self, number: int, changed: bool) -> tuple[NDArray[np.uint8], Screen]:
        from pocket.screens.changes import NOTHING, pair  # noqa: PLC0415
        from pocket.screens.painter import paint  # noqa: PLC0415
        from pocket.screens.templates import compose  # noqa: PLC0415
        from pocket.screens.words import Phrases  # noqa: PLC0415

        rng, phrases, sentence = Random(f"loop/screen/{number}"), Phrases("heldout"), NOTHING
        while sentence == NOTHING:
            *pages, sentence = pair(rng, phrases, compose(rng, phrases, self.width, self.height))
        return paint(pages[changed])


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of the loop."""

    kind: str
    """One of `CYCLE`."""
    number: int
    changed: bool
    """The screen that is asked about."""

    @property
    def brings_picture(self) -> bool:
        """Whether the turn has a picture of its own; else it is about the one before."""
        return self.kind not in ("follow-up", "again")


CYCLE = (
    "new screen",
    "follow-up",  # another question about it, without a picture
    "again",  # the request of the turn before, unchanged
    "new screen",
    "unchanged",  # a new screenshot of what has not changed
    "changed",  # of what has changed in a part
    "seen before",  # the picture that the cycle began with, in a new place
    "new screen",
)
"""What happens, over and over."""


def turns(count: int) -> Sequence[Turn]:
    """The first turns of the loop."""
    made: list[Turn] = []
    num_screens = 0
    for index in range(count):
        kind = CYCLE[index % len(CYCLE)]
        if kind == "new screen":
            shown = (num_screens, False)
            num_screens += 1
        elif kind == "changed":
            shown = (shown[0], True)
        elif kind == "seen before":
            first = made[index - index % len(CYCLE)]
            shown = (first.number, first.changed)
        made.append(Turn(kind, *shown))
    return made
