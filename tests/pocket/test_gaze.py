"""The losses about where to look are nothing for a model that looks there, and large for one that looks elsewhere."""

# ruff: noqa: E402 - what needs torch is imported after the check that it is there

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="torch is missing: make parity")
pytest.importorskip("transformers", reason="transformers is missing: make parity")

from pocket.screens.labels import COLUMNS
from pocket.screens.questions import Turn
from pocket.screens.screen import Element, Glyph, Screen
from pocket.train.conversations import NO_LETTER, Chat, ChatBatch, stack_chats
from pocket.train.gaze import FIND, READ, STEP, gaze_losses
from pocket.train.looks import AWAY
from pocket.train.network import Watched
from pocket.train.tokenizer import load

pytestmark = pytest.mark.parity

HEADS, KV_HEADS, WIDTH = 8, 4, 64


@pytest.fixture
def chat() -> ChatBatch:
    """Reading `Tea` off the second of two tokens."""
    glyphs = tuple(Glyph(char, 36.0 + 8 * i, 8) for i, char in enumerate("Tea"))
    element = Element("text", "Tea", (33, 0, 60, 16), (33, 0, 60, 16), glyphs=glyphs)
    screen = Screen(64, 32, (element,))
    one = Chat()
    position = one.image(1, 2, one.text("<|im_start|>user\n", 0, 0, learn=False))
    one.turn(Turn("title", "Read the title.", "Tea", element=element), position, 0, think=False, screen=screen)
    return stack_chats([one])


def looking(places: dict[int, torch.Tensor], length: int) -> Watched:
    """Queries and keys with which head `h` of a layer looks from row `i` at `places[layer][h, i]`, and nowhere else."""
    queries, keys = [], []
    one_hot = torch.eye(length, length)
    for layer in range(READ + 1):
        target = places.get(layer, torch.zeros(HEADS, length, dtype=torch.long))
        queries.append(one_hot[target][None] * 200 * length**0.5)
        keys.append(one_hot.expand(1, KV_HEADS, length, length))
    states = [torch.zeros(1, length, WIDTH) for _ in range(READ + 1)]
    return Watched(states, queries, keys)


def losses(watched: Watched, chat: ChatBatch) -> dict[str, float]:
    probe = torch.nn.Linear(WIDTH, 3)
    torch.nn.init.zeros_(probe.weight)
    torch.nn.init.constant_(probe.bias, 0.5)
    attributes = torch.full((1, int(chat.pictured.sum()), 3), 0.5)
    return {name: value.item() for name, value in gaze_losses(watched, chat, attributes, probe).items()}


def test_the_letters_of_an_answer_and_its_end_are_noted(chat: ChatBatch) -> None:
    noted = [(chat.letters[0, row].item(), load().decode([chat.ids[0, row + 1].item()], skip_special_tokens=False))
             for row in range(chat.ids.size(1) - 1) if chat.letters[0, row] != NO_LETTER]  # fmt: skip
    (second,) = [place for place in chat.pictured[0].nonzero().flatten().tolist() if place - 1 in
                 chat.pictured[0].nonzero().flatten().tolist()]  # fmt: skip
    expected = [(second * COLUMNS + column, char) for column, char in zip((1, 3, 5), "Tea", strict=True)]
    assert noted == [*expected, (AWAY, "<|im_end|>")]


def test_looking_where_one_is_told_costs_nothing(chat: ChatBatch) -> None:
    length = chat.ids.size(1)
    before = chat.before.expand(HEADS, length)
    element = int(chat.pictured[0].nonzero().max())
    find = torch.where(chat.looks[0].any(-1), element, 0).expand(HEADS, length)
    read = torch.zeros(HEADS, length, dtype=torch.long)  # the first token is no picture
    for row in (chat.letters[0] >= 0).nonzero().flatten().tolist():
        letter = int(chat.letters[0, row])
        read[letter % COLUMNS, row] = letter // COLUMNS
    found = losses(looking({STEP: before, FIND: find, READ: read}, length), chat)
    assert found["aim"] == 1
    assert max(found[name] for name in ("past", "find", "attribute", "read")) < 1e-3


def test_looking_elsewhere_is_expensive(chat: ChatBatch) -> None:
    length = chat.ids.size(1)
    itself = torch.arange(length).expand(HEADS, length)
    found = losses(looking({STEP: itself, FIND: itself, READ: itself}, length), chat)
    assert found["aim"] == 0
    assert min(found[name] for name in ("past", "find", "read")) > 5
