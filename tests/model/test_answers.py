"""Answers that come back as text are tokenized as they were drawn, and nothing else is touched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_runtime.model.answers import MAX_ANSWERS, DrawnAnswers
from edge_runtime.model.manifest import TOKENIZER, load_manifest
from edge_runtime.model.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(tiny_bundle: Path) -> Tokenizer:
    return Tokenizer(tiny_bundle / TOKENIZER)


@pytest.fixture(scope="module")
def end(tiny_bundle: Path) -> int:
    return max(load_manifest(tiny_bundle).special_tokens.eos)


def ids_of(tokenizer: Tokenizer, text: str) -> NDArray[np.int64]:
    return tokenizer.encode(text, {}, add_special_tokens=False)


def letters(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    """One token a letter, as no tokenizer would do it."""
    return tuple(int(ids_of(tokenizer, letter)[0]) for letter in text)


def test_a_history_has_the_tokens_that_were_drawn(tokenizer: Tokenizer, end: int) -> None:
    answers = DrawnAnswers(tokenizer, {end})
    prompt, text = ids_of(tokenizer, "user says hi, assistant: "), "the text"
    drawn, usual, after = letters(tokenizer, text), ids_of(tokenizer, text), ids_of(tokenizer, " and so on")
    assert len(drawn) > len(usual)
    answers.note(prompt, (*drawn, end))
    history = np.concatenate((prompt, usual, [end], after))
    assert answers.restore(history).tolist() == [*prompt, *drawn, end, *after]
    assert answers.restore(answers.restore(history)).tolist() == [*prompt, *drawn, end, *after]


def test_under_another_salt_it_was_never_drawn(tokenizer: Tokenizer, end: int) -> None:
    answers = DrawnAnswers(tokenizer, {end})
    prompt, text, salts = ids_of(tokenizer, "user says hi, assistant: "), "the text", (b"", b"a" * 16, b"b" * 16)
    drawn, usual = letters(tokenizer, text), ids_of(tokenizer, text)
    history = np.concatenate((prompt, usual, [end]))
    for salt in salts:
        answers.note(prompt, (*drawn, end), salt)
        told = [len(answers.restore(history, other)) > len(history) for other in salts]
        assert told == [other <= salt for other in salts]


def test_two_turns_are_found_one_after_the_other(tokenizer: Tokenizer, end: int) -> None:
    answers = DrawnAnswers(tokenizer, {end})
    first, second = ids_of(tokenizer, "first question: "), ids_of(tokenizer, " second question: ")
    drawn = letters(tokenizer, "the text")
    answers.note(first, (*drawn, end))
    answers.note(np.concatenate((first, drawn, [end], second)), (*drawn, end))
    usual = ids_of(tokenizer, "the text")
    history = np.concatenate((first, usual, [end], second, usual, [end]))
    assert answers.restore(history).tolist() == [*first, *drawn, end, *second, *drawn, end]


@pytest.mark.parametrize("said", ["the tex", "the text!", "another one", ""])
def test_another_text_is_left_alone(tokenizer: Tokenizer, end: int, said: str) -> None:
    answers = DrawnAnswers(tokenizer, {end})
    prompt = ids_of(tokenizer, "user says hi, assistant: ")
    answers.note(prompt, (*letters(tokenizer, "the text"), end))
    for history in (
        np.concatenate((prompt, ids_of(tokenizer, said), [end])),
        np.concatenate((prompt, ids_of(tokenizer, "the text"))),  # it does not end
        np.concatenate((prompt[1:], ids_of(tokenizer, "the text"), [end])),  # after another prompt
        prompt,
    ):
        assert answers.restore(history).tolist() == history.tolist()


def test_control_tokens_in_an_answer_are_not_remembered(tokenizer: Tokenizer, end: int) -> None:
    answers = DrawnAnswers(tokenizer, {end})
    prompt = ids_of(tokenizer, "question: ")
    drawn = letters(tokenizer, "the text")
    answers.note(prompt, (*drawn[:3], end, *drawn[3:], end))
    history = np.concatenate((prompt, ids_of(tokenizer, "the text"), [end]))
    assert answers.restore(history).tolist() == history.tolist()


def test_the_oldest_answers_are_forgotten(tokenizer: Tokenizer, end: int) -> None:
    answers = DrawnAnswers(tokenizer, {end})
    drawn = letters(tokenizer, "the text")
    prompts = [np.array([1, 2, number], dtype=np.int64) for number in range(MAX_ANSWERS + 1)]
    for prompt in prompts:
        answers.note(prompt, drawn)
    usual = ids_of(tokenizer, "the text")
    for prompt, is_known in ((prompts[0], False), (prompts[1], True)):
        history = np.concatenate((prompt, usual, [end]))
        assert (answers.restore(history).tolist() != history.tolist()) is is_known


def test_what_is_said_with_control_tokens_in_it_is_left_alone(tokenizer: Tokenizer, end: int) -> None:
    """They have no bytes, so the text alone would say the same: pictures would be lost."""
    answers = DrawnAnswers(tokenizer, {end})
    prompt, drawn = ids_of(tokenizer, "question: "), letters(tokenizer, "the text")
    answers.note(prompt, (*drawn, end))
    special = next(int(token) for token in tokenizer.added_ids if token != end)
    for said in ([special, *drawn], [*ids_of(tokenizer, "the text"), special], [special]):
        history = np.concatenate((prompt, said, [end]))
        assert answers.restore(history).tolist() == history.tolist()


def test_all_answers_together_are_bounded(tokenizer: Tokenizer, end: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_runtime.model.answers.MAX_TOKENS", 20)
    answers = DrawnAnswers(tokenizer, {end})
    drawn, usual = letters(tokenizer, "the text"), ids_of(tokenizer, "the text")
    prompts = [np.array([1, 2, number], dtype=np.int64) for number in range(3)]
    for prompt in (*prompts, prompts[2]):
        answers.note(prompt, drawn)
    known = [len(answers.restore(np.concatenate((prompt, usual, [end])))) > len(usual) + 4 for prompt in prompts]
    assert known == [False, True, True]
