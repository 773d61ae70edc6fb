"""What the language model is told about where to look is where the letters really are."""

from __future__ import annotations

from random import Random

import pytest

from pocket.screens.fonts import CHARACTERS
from pocket.screens.labels import COLUMNS, SLOTS, cells, dense_labels, place_features
from pocket.screens.painter import measure
from pocket.screens.questions import TASKS, Turn
from pocket.screens.screen import Element, Glyph, Screen
from pocket.screens.templates import compose
from pocket.screens.words import Phrases
from pocket.train.looks import AWAY, looks

READING = {"title", "read", "names", "text", "list"}


def turns(seed: int) -> list[tuple[Screen, Turn]]:
    rng, phrases = Random(seed), Phrases("train")
    screen = measure(compose(rng, phrases, 384, 256))
    asked = (task(rng, screen, phrases) for task in TASKS)
    return [(screen, turn) for turn in asked if turn is not None]


@pytest.mark.usefixtures("fonts")
def test_letters_are_looked_for_where_the_labels_have_them() -> None:
    seen = set()
    for screen, turn in [pair for seed in range(6) for pair in turns(seed)]:
        chars = dense_labels(screen).chars
        for look in looks(turn, screen):
            for offset in range(look.start, look.end - 1):
                found = look.letter(offset, screen)
                if found is None:
                    continue
                token, column = found
                rows = [chars[token, column], chars[token, SLOTS // 2 + column]]
                assert CHARACTERS.index(turn.answer[offset]) + 1 in rows, (turn, offset)
                assert token in look.tokens(screen) or len(look.letters) > 1
                seen.add(turn.task)
            if look.letters:
                assert look.letter(look.end - 1, screen) == (AWAY, 0), "after the last letter there is none"
    assert seen >= READING


@pytest.mark.usefixtures("fonts")
def test_points_are_looked_for_at_their_element() -> None:
    for screen, turn in turns(seed=3):
        if turn.task in ("point", "click", "kind") and turn.element is not None:
            (look,) = looks(turn, screen)
            wide = screen.width // 32
            left, top, right, bottom = (edge / 32 for edge in turn.element.box)
            assert look.tokens(screen)
            for token in look.tokens(screen):
                assert left - 1 < token % wide < right
                assert top - 1 < token // wide < bottom


def test_absent_things_are_looked_for_nowhere() -> None:
    element = Element("checkbox", "Tea", (0, 0, 60, 16), (0, 0, 60, 16), "checked")
    screen = Screen(64, 32, (element,))
    assert looks(Turn("absent", "Where is Pie?", "not on this screen"), screen) == []
    assert looks(Turn("set", "Check Tea.", '{"action":"none"}', element=element), screen) == []


def test_two_thin_letters_do_not_share_a_slot() -> None:
    thin = [Glyph("i", 4.5, 8), Glyph("l", 7.5, 8), Glyph("i", 8.5, 8), Glyph("x", 1.0, 24)]
    assert cells(thin) == [(0, 1), (0, 2), (0, 3), (1, 0)]


def test_place_features_tell_all_places_of_the_grid_apart() -> None:
    features = [place_features(coordinate) for coordinate in range(0, 1000, 10)]
    assert len({tuple(one.round(4)) for one in features}) == 100
    assert all(one.argmax() == coordinate // 10 for coordinate, one in enumerate(f[:10] for f in features)
               if coordinate % 10 == 5)  # fmt: skip
    assert COLUMNS * 2 == SLOTS
