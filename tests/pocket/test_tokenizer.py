"""The committed tokenizer and chat template, without torch or transformers."""

from __future__ import annotations

import json
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pocket.screens.painter import measure
from pocket.screens.questions import ask
from pocket.screens.templates import compose
from pocket.screens.words import Phrases
from pocket.train.tokenizer import SPECIAL, WEIGHTS, load, special_ids, tokenizer_config, vocabulary_size

CHAT = [
    {"role": "system", "content": "Answer briefly."},
    {"role": "user", "content": [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "What changed?"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "nothing changed"}]},
    {"role": "user", "content": "Where is Pay?"},
]
PROMPT = (
    "<|im_start|>system\nAnswer briefly.<|im_end|>\n"
    "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|><|vision_start|><|image_pad|><|vision_end|>"
    "What changed?<|im_end|>\n"
    "<|im_start|>assistant\nnothing changed<|im_end|>\n"
    "<|im_start|>user\nWhere is Pay?<|im_end|>\n"
)


def render(**options: bool) -> str:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    return environment.from_string((WEIGHTS / "chat_template.jinja").read_text()).render(messages=CHAT, **options)


@given(st.text())
def test_any_text_survives(text: str) -> None:
    assert load().decode(load().encode(text).ids, skip_special_tokens=False) == text


def test_ids_are_those_the_weights_were_trained_with() -> None:
    assert load().get_vocab_size() == 442
    assert vocabulary_size() == 448
    assert special_ids() == {name: 432 + index for index, name in enumerate(SPECIAL)}
    assert load().encode("<|im_start|>user\n<think>").ids == [433, 340, 198, 440]


def test_committed_settings_are_those_of_the_code() -> None:
    assert json.loads((WEIGHTS / "tokenizer_config.json").read_text()) == tokenizer_config()


def test_names_are_spelled_and_wordings_are_not() -> None:
    assert len(load().encode("Zanzibar").ids) == len("Zanzibar")
    assert len(load().encode('{"action":"click"').ids) == 5
    assert load().encode("12").tokens == ["1", "2"]


@pytest.mark.usefixtures("fonts")
def test_questions_and_answers_survive() -> None:
    phrases = Phrases("heldout")
    for seed in range(20):
        rng = Random(seed)
        for turn in ask(rng, measure(compose(rng, phrases, 384, 256)), phrases, 8):
            text = f"{turn.question}<|im_end|>\n<|im_start|>assistant\n{turn.answer}<|im_end|>"
            assert load().decode(load().encode(text).ids, skip_special_tokens=False) == text


def test_chat_template_writes_qwens_format() -> None:
    assert render() == PROMPT
    assert render(add_generation_prompt=True) == PROMPT + "<|im_start|>assistant\n"
    thinking = render(add_generation_prompt=True, enable_thinking=True)
    assert thinking == PROMPT + "<|im_start|>assistant\n<think>\n"
