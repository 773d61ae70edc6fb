"""Chats as token ids: one or two screens, then several questions and answers, with what the loss may count.

Two layouts. `chain`: an ordinary multi-turn chat. `fan`: every question sees the screens but not the other questions,
as if each were asked first; one pass over the screens then trains many first turns.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from random import Random

import numpy as np
import torch
from torch import Tensor

from pocket.screens.labels import COLUMNS
from pocket.screens.questions import Turn
from pocket.screens.screen import Screen
from pocket.train.looks import AWAY, Look, looks
from pocket.train.tokenizer import load, special_ids

NO_LOSS = -100
NO_LETTER = -2


@lru_cache(maxsize=1024)
def _encode(text: str) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...]]:
    """Token ids and the characters each stands for."""
    encoding = load().encode(text)
    return tuple(encoding.ids), tuple(encoding.offsets)


@dataclass(slots=True)
class Chat:
    """One sequence under construction. Positions are (time, height, width) per token, as M-RoPE counts them."""

    ids: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    segments: list[int] = field(default_factory=list)
    positions: list[tuple[int, int, int]] = field(default_factory=list)
    sources: list[tuple[tuple[int, ...], int]] = field(default_factory=list)  # see `ChatBatch.looks` and `.letters`
    before: list[int] = field(default_factory=list)  # the token before each; in an image the one at its left
    images: list[int] = field(default_factory=list)  # where each image's first token is
    _tails: dict[int, int] = field(default_factory=lambda: {0: 0})  # each segment's last token

    def text(self, text: str, position: int, segment: int, learn: bool) -> int:
        """Appends text; returns the next free position."""
        for index in _encode(text)[0]:
            self.sources.append(((), NO_LETTER))
            self.before.append(self._tails.get(segment, self._tails[0]))
            self._tails[segment] = len(self.ids)
            self.ids.append(index)
            self.labels.append(index if learn else NO_LOSS)
            self.segments.append(segment)
            self.positions.append((position, position, position))
            position += 1
        return position

    def image(self, rows: int, columns: int, position: int) -> int:
        """Appends one image of `rows` by `columns` tokens between its markers; returns the next free position."""
        position = self.text("<|vision_start|>", position, 0, learn=False)
        pad = special_ids()["<|image_pad|>"]
        self.images.append(len(self.ids))
        for row in range(rows):
            for column in range(columns):
                self.before.append(len(self.ids) - (column > 0))
                self.ids.append(pad)
                self.sources.append(((), NO_LETTER))
                self.labels.append(NO_LOSS)
                self.segments.append(0)
                self.positions.append((position, position + row, position + column))
        self._tails[0] = len(self.ids) - 1
        return self.text("<|vision_end|>", position + max(rows, columns), 0, learn=False)

    def turn(self, turn: Turn, position: int, segment: int, think: bool, screen: Screen | None = None) -> int:
        """Appends a question (its `user` header is already there) and its answer; returns the next free position.

        With `think` the answer follows its thought, which is empty where a question has none.
        With the `screen` of the last image, also notes where each answer token is read from.
        """
        opening = "<think>\n" if think else ""
        position = self.text(
            f"{turn.question}<|im_end|>\n<|im_start|>assistant\n{opening}", position, segment, learn=False
        )
        answer = f"{turn.thought}\n</think>\n\n{turn.answer}" if think else turn.answer
        start = len(self.ids)
        position = self.text(f"{answer}<|im_end|>", position, segment, learn=True)
        if screen is not None:
            shift = len(answer) - len(turn.answer)
            self._note(start, _encode(f"{answer}<|im_end|>")[1], shift, looks(turn, screen), screen)
        return position

    def _note(
        self, start: int, offsets: tuple[tuple[int, int], ...], shift: int, found: list[Look], screen: Screen
    ) -> None:
        """Notes the sources of the answer that begins at token `start`; its first `shift` characters are a thought."""
        for index, (begin, end) in enumerate(offsets):
            for look in found:
                at = begin - shift if begin - shift >= look.start else end - 1 - shift
                if look.start <= at < look.end:
                    places = tuple(self.images[-1] + token for token in look.tokens(screen))
                    self.sources[start + index] = (places, self._letter(look.letter(at, screen)))

    def _letter(self, place: tuple[int, int] | None) -> int:
        if place is None:
            return NO_LETTER
        token, column = place
        return AWAY if token == AWAY else (self.images[-1] + token) * COLUMNS + column


def build_chat(
    rng: Random, turns: list[Turn], screens: list[Screen], max_text: int = 200, thinking: float = 0.25
) -> Chat:
    """One sequence about one or two equally sized screens: the `turns` that fit `max_text` tokens.

    A share `thinking` of the answers follow a thought.
    """
    chat = Chat()
    fan = rng.random() < 0.6
    start = chat.text("<|im_start|>user\n", 0, 0, learn=False)
    for screen in screens:
        start = chat.image(screen.height // 32, screen.width // 32, start)
    position, room, number = start, max_text, -1
    for turn in turns:
        room_needed = sum(len(_encode(text)[0]) for text in (turn.question, turn.answer, turn.thought)) + 12
        if room_needed > room and number >= 0:
            continue
        room, number = room - room_needed, number + 1
        segment = number + 1 if fan else 0
        if fan:
            position = start
        elif number:
            position = chat.text("\n<|im_start|>user\n", position, 0, learn=False)
        position = chat.turn(turn, position, segment, rng.random() < thinking, screens[-1])
    return chat


@dataclass(frozen=True, slots=True)
class ChatBatch:
    """ids, labels [B, L]; positions [3, B, L]; mask bool [B, 1, L, L]; where image tokens are, bool [B, L].

    For the throw-away signals of `gaze.py`: `before`, int64 [B, L], the place of the token before each; and as seen
    from the token before, `looks`, bool [B, L, L], the image tokens that show what comes next, and `letters`, int64
    [B, L], place times `COLUMNS` plus column of the letter that comes next, `AWAY` or `NO_LETTER`.
    """

    ids: Tensor
    labels: Tensor
    positions: Tensor
    mask: Tensor
    pictured: Tensor
    before: Tensor
    looks: Tensor
    letters: Tensor


def stack_chats(chats: list[Chat]) -> ChatBatch:
    """Pads chats to one length. Padding looks only at itself and counts for nothing."""
    length = -(-max(len(chat.ids) for chat in chats) // 16) * 16
    count = len(chats)
    ids = np.zeros((count, length), np.int64)
    labels = np.full((count, length), NO_LOSS, np.int64)
    segments = np.full((count, length), -1, np.int64)
    positions = np.zeros((3, count, length), np.int64)
    before = np.tile(np.arange(length), (count, 1))
    seen = np.zeros((count, length, length), bool)
    letters = np.full((count, length), NO_LETTER, np.int64)
    for row, chat in enumerate(chats):
        size = len(chat.ids)
        ids[row, :size] = chat.ids
        labels[row, : size - 1] = chat.labels[1:]  # each place predicts the next token
        segments[row, :size] = chat.segments
        positions[:, row, :size] = np.array(chat.positions).T
        before[row, :size] = chat.before
        for place, (sources, letter) in enumerate(chat.sources[1:]):
            seen[row, place, list(sources)] = True
            letters[row, place] = letter
    query, key = segments[:, :, None], segments[:, None, :]
    mask = ((query == key) | ((key == 0) & (query > 0))) & np.tri(length, dtype=bool)
    pictured = ids == special_ids()["<|image_pad|>"]
    arrays = (ids, labels, positions, mask[:, None], pictured, before, seen, letters)
    return ChatBatch(*(torch.from_numpy(array) for array in arrays))
