"""Where an answer comes from: for each answer token, the image tokens that show what it says.

Used as a throw-away training signal. Left to itself the language model spends most of its training finding out where to
look; told where to look, it learns to read in a fraction of the steps.
"""

import re
from dataclasses import dataclass

from pocket.screens.labels import COLUMNS, TOKEN
from pocket.screens.questions import Turn
from pocket.screens.screen import Element, Glyph, Screen

_LINE = re.compile(r'^\w+ "(.*)" \(\d+, \d+\)$')


@dataclass(frozen=True, slots=True)
class Look:
    """Characters `start:end` of an answer come from `element`; letter by letter if `glyphs` is not empty."""

    start: int
    end: int
    element: Element
    glyphs: tuple[Glyph, ...] = ()

    def tokens(self, offset: int, screen: Screen) -> list[int]:
        """Image tokens, numbered row by row, that show the answer's character at `offset`."""
        wide, high = screen.width // TOKEN, screen.height // TOKEN
        if self.glyphs:
            glyph = self.glyphs[offset - self.start]
            boxes = [(glyph.x, glyph.y, glyph.x, glyph.y)]
        else:
            boxes = [(g.x, g.y, g.x, g.y) for g in self.element.glyphs] or [self.element.target]
        found = set()
        for left, top, right, bottom in boxes:
            for row in range(int(top // TOKEN), int(bottom // TOKEN) + 1):
                for column in range(int(left // TOKEN), int(right // TOKEN) + 1):
                    if 0 <= row < high and 0 <= column < wide:
                        found.add(row * wide + column)
        return sorted(found)

    def slot(self, offset: int) -> int | None:
        """Which of a token's 16 slots holds the character at `offset`; None when the look is not letter by letter."""
        if not self.glyphs:
            return None
        glyph = self.glyphs[offset - self.start]
        return int(glyph.y // 16) % 2 * COLUMNS + int(glyph.x // 4) % COLUMNS


def looks(turn: Turn, screen: Screen) -> list[Look]:
    """What each part of an answer was read from; empty when it was not read from anywhere in particular."""
    if turn.task in ("names", "list", "text"):
        found, start = [], 0
        for line in turn.answer.split("\n"):
            match = _LINE.match(line) if turn.task == "list" else None
            name = match.group(1) if match else line
            element = next(iter(screen.named(name)), None)
            if element is not None:
                begin = start + (match.start(1) if match else 0)
                if match:
                    found.append(Look(start, begin - 1, element))
                    found.append(Look(begin + len(name) + 1, start + len(line), element))
                found.append(_letters(begin, name, element, element.glyphs[: len(name)]))
            start += len(line) + 1
        return found
    if turn.element is None or turn.answer.startswith('{"action":"none"'):
        return []
    if turn.task in ("title", "read"):
        return [_letters(0, turn.answer, turn.element, turn.element.glyphs[: len(turn.answer)])]
    if turn.task == "value" and turn.element.value:
        return [_letters(0, turn.answer, turn.element, turn.element.glyphs[-len(turn.answer) :])]
    return [Look(0, len(turn.answer), turn.element)]


def _letters(start: int, text: str, element: Element, glyphs: tuple[Glyph, ...]) -> Look:
    """Letter by letter if the glyphs really spell the text, else only the element."""
    spelled = "".join(glyph.char for glyph in glyphs) == text
    return Look(start, start + len(text), element, glyphs if spelled else ())
