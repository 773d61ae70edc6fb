"""The two worlds of strings share nothing, and nothing is cut in half."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from random import Random

import pytest

from pocket.eval.sets import PAGES, handwritten_page
from pocket.screens.words import Phrases, Split, common_words, split_of

_VALUE = re.compile(r"\$\d{1,2}\.\d\d|\d{1,4}|\d{1,3}%|\d\d:\d\d|20\d\d-\d\d-\d\d|[A-Z0-9]{3,7}")
_NAME = re.compile(r"[A-Za-z]+(?: [A-Za-z]+){0,2}(?: [1-9]\d?)?")
_ADDRESS = re.compile(r"([a-z]+)@([a-z]+)\.(?:com|org|net)")


def strings(split: Split, count: int = 3000) -> set[str]:
    phrases, rng = Phrases(split), Random(5)
    return {draw(rng).lower() for _ in range(count) for draw in (phrases.name, phrases.value, phrases.price)}


def can_be_drawn_in_training(text: str) -> bool:
    """Whether `Phrases("train")` could ever say this."""
    if _VALUE.fullmatch(text) and split_of(text) == "train":
        return True
    if address := _ADDRESS.fullmatch(text):
        return all(split_of(word) == "train" for word in address.groups())
    words = re.findall("[A-Za-z]+", text)
    return bool(_NAME.fullmatch(text)) and all(split_of(word) == "train" for word in words)


class Strings(HTMLParser):
    """The texts of a page: what lies under `data-kind`, and the values of its fields."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self._skipping = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._skipping = tag in ("style", "title")
        self.found += [value for name, value in attrs if name == "value" and value]

    def handle_endtag(self, tag: str) -> None:
        self._skipping = False

    def handle_data(self, data: str) -> None:
        if data.strip() and not self._skipping:
            self.found.append(data.strip())


def test_the_worlds_share_no_word() -> None:
    train, heldout = set(common_words("train")), set(common_words("heldout"))
    assert not train & heldout
    assert len(heldout) > 100


def test_no_string_is_drawn_in_both_worlds() -> None:
    assert not strings("train") & strings("heldout")


def test_every_training_string_is_recognized_as_one() -> None:
    phrases, rng = Phrases("train"), Random(6)
    for draw in (phrases.name, phrases.value, phrases.price):
        assert all(can_be_drawn_in_training(draw(rng)) for _ in range(500))


@pytest.mark.parametrize("page", sorted(PAGES.glob("*.html")), ids=lambda page: page.stem)
def test_handwritten_pages_say_nothing_that_training_could(page: Path) -> None:
    found = Strings(handwritten_page(page).html).found
    assert found
    assert [text for text in found if can_be_drawn_in_training(text)] == []


def test_there_are_twenty_handwritten_pages() -> None:
    assert len(list(PAGES.glob("*.html"))) == 20


def test_lengths_are_kept_by_whole_words() -> None:
    phrases, rng = Phrases("heldout"), Random(7)
    for _ in range(2000):
        name = phrases.name(rng)
        assert 1 <= len(name) <= 20
        assert all(split_of(word) == "heldout" for word in re.findall("[A-Za-z]+", name))
        assert len(phrases.value(rng, max_length=8)) <= 8
