"""Where an answer comes from: for each answer token, the image tokens that show what it says.

Used as a throw-away training signal. Left to itself the language model spends most of its training finding out where to
look; told where to look, it learns to read in a fraction of the steps.
"""

import re
from dataclasses import dataclass

from pocket.screens.labels import COLUMNS, TOKEN, cells
from pocket.screens.questions import Turn
from pocket.screens.screen import Element, Screen

_LINE = re.compile(r'^\w+ "(.*)" \(\d+, \d+\)$')
AWAY = -1  # the letters are over: look at none


@dataclass(frozen=True, slots=True)
class Look:
    """Characters `start:end` of an answer come from `element`.

    Letter by letter if `letters` is not empty: text row and 4-pixel column of each, and `AWAY` for what follows them.
    """

    start: int
    end: int
    element: Element
    letters: tuple[tuple[int, int], ...] = ()

    def tokens(self, screen: Screen) -> list[int]:
        """Image tokens, numbered row by row, that show the element."""
        wide, high = screen.width // TOKEN, screen.height // TOKEN
        boxes = [(g.x, g.y, g.x, g.y) for g in self.element.glyphs] or [self.element.target]
        found = set()
        for left, top, right, bottom in boxes:
            for row in range(int(top // TOKEN), int(bottom // TOKEN) + 1):
                for column in range(int(left // TOKEN), int(right // TOKEN) + 1):
                    if 0 <= row < high and 0 <= column < wide:
                        found.add(row * wide + column)
        return sorted(found)

    def letter(self, offset: int, screen: Screen) -> tuple[int, int] | None:
        """Image token and column in it of the character at `offset`; `(AWAY, 0)` right after the last letter.

        None when the look is not letter by letter or the letter is off the screen.
        """
        place = offset - self.start
        if not self.letters or place > len(self.letters):
            return None
        if place == len(self.letters):
            return AWAY, 0
        row, column = self.letters[place]
        wide, high = screen.width // TOKEN, screen.height // TOKEN
        if not (0 <= row // 2 < high and 0 <= column // COLUMNS < wide):
            return None
        return row // 2 * wide + column // COLUMNS, column % COLUMNS


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
                found.append(_letters(begin, name, element, slice(0, len(name))))
            start += len(line) + 1
        return found
    if turn.element is None or turn.answer.startswith('{"action":"none"'):
        return []
    if turn.task in ("title", "read"):
        return [_letters(0, turn.answer, turn.element, slice(0, len(turn.answer)))]
    if turn.task == "value" and turn.element.value:
        return [_letters(0, turn.answer, turn.element, slice(-len(turn.answer), None))]
    return [Look(0, len(turn.answer), turn.element)]


def _letters(start: int, text: str, element: Element, part: slice) -> Look:
    """Letter by letter if that part of the glyphs really spells the text, else only the element."""
    spelled = "".join(glyph.char for glyph in element.glyphs[part]) == text
    return Look(start, start + len(text) + 1, element, tuple(cells(element.glyphs)[part]) if spelled else ())
