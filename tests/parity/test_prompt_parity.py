"""Templates and tokenizers: the same text and ids as transformers, with the tiny tokenizer and with Qwen3's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from edge_export.random_checkpoint import config_for, write_random_checkpoint
from edge_runtime.engine.text_stream import Utf8Stream
from edge_runtime.model.conversation import Message
from edge_runtime.model.manifest import SpecialTokens
from edge_runtime.model.prompt import PromptBuilder, PromptOptions
from edge_runtime.model.template import ChatTemplate
from edge_runtime.model.tokenizer import Tokenizer
from tests.parity.cases import CASES, Case, text
from tests.parity.theirs import Transformers, as_dict

pytestmark = pytest.mark.parity

TEXTS = (
    "plain words, and  two  spaces\tand a tab",
    "línea één: naïve façade, ½ × 3 = 1½, 10 000 €",
    "Привет, мир! Γειά σου Κόσμε. Բարեւ աշխարհ",
    "你好，世界。こんにちは世界、안녕하세요 세계",
    "مرحبا بالعالم — שלום עולם — नमस्ते दुनिया — สวัสดีชาวโลก",
    "emoji 🙂👩‍👩‍👧‍👦🏳️‍🌈 and flags 🇩🇪🇯🇵",
    "e\u0301 combining, ﬁ ligature, \u200bzero width, \ufeffBOM, \u2028line",
    "def f(x):\n    return {'a': [1, 2, 3]}  # comment\r\n\r\n\n\n",
    "1234567890 3.14159 0xFF 1e-10 I'll we've IT'S",
    "<|im_start|>not<|im_end|> <think>a</think><tool_call>{}</tool_call>",
    "",
    " ",
    "\n\n  \n",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 ℵ₀ ∀x∈ℝ ⌈x⌉ ☃ \U0010fffd",
)


@pytest.fixture(scope="session")
def qwen3(qwen3_folder: Path) -> tuple[Tokenizer, PreTrainedTokenizerFast]:
    """Qwen3's tokenizer, loaded by us and by transformers."""
    return Tokenizer(qwen3_folder / "tokenizer.json"), AutoTokenizer.from_pretrained(qwen3_folder)


@pytest.mark.parametrize("content", TEXTS, ids=range(len(TEXTS)))
def test_qwen3_prompt_ids(
    content: str, qwen3: tuple[Tokenizer, PreTrainedTokenizerFast], checkpoint_of: Callable[[str], Path]
) -> None:
    ours, theirs = qwen3
    template_file = checkpoint_of("tied") / "chat_template.jinja"
    builder = PromptBuilder(ours, ChatTemplate(template_file), qwen3_special_tokens())
    messages = (text("system", content), text("user", content), text("assistant", content), text("user", "And?"))

    expected = theirs.apply_chat_template(
        as_chat(messages), chat_template=template_file.read_text(), add_generation_prompt=True
    )
    assert builder.build(messages, (), options=PromptOptions(parse_special=True)).input_ids.tolist() == expected
    if not any(token in content for token in ours.added_tokens):  # else decision 50 says what the default does
        assert builder.build(messages, ()).input_ids.tolist() == expected


@pytest.mark.parametrize("content", TEXTS, ids=range(len(TEXTS)))
def test_qwen3_plain_text_ids(content: str, qwen3: tuple[Tokenizer, PreTrainedTokenizerFast]) -> None:
    """Text beside a typed control token is cut without looking for any, which must be all the difference."""
    ours, theirs = qwen3
    if any(token in content for token in ours.added_tokens):
        ids = ours._encode_plain([content])[0].tolist()
        assert theirs.decode(ids, clean_up_tokenization_spaces=False) == content
        assert not set(ids) & set(theirs.added_tokens_decoder)
    else:
        assert ours._encode_plain([content])[0].tolist() == theirs(content)["input_ids"]


@pytest.mark.parametrize("content", TEXTS, ids=range(len(TEXTS)))
def test_qwen3_streamed_detokenization(content: str, qwen3: tuple[Tokenizer, PreTrainedTokenizerFast]) -> None:
    ours, theirs = qwen3
    token_ids = theirs(content)["input_ids"]

    assert streamed(ours, token_ids) == theirs.decode(
        token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )


def test_tiny_detokenization_of_every_token(checkpoint_of: Callable[[str], Path]) -> None:
    """Also byte salad, ids that mean nothing, and special tokens in between."""
    theirs: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(checkpoint_of("tied"))
    tokenizer = Tokenizer(checkpoint_of("tied") / "tokenizer.json")
    token_ids = [*range(700, 1024), *range(0, 256), *range(255, -1, -3), 962, 130, 220]
    assert streamed(tokenizer, token_ids) == theirs.decode(
        token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )


@pytest.mark.parametrize("case", CASES[:11], ids=lambda case: case.name)
@pytest.mark.parametrize("thinking", [False, True])
def test_chat_template_text(
    case: Case, thinking: bool, theirs_of: Callable[[str], Transformers], tmp_path: Path
) -> None:
    write_random_checkpoint(tmp_path / "checkpoint", config_for("tiny"), thinking=thinking)
    file = tmp_path / "checkpoint" / "chat_template.jinja"
    expected = theirs_of("tied").tokenizer.apply_chat_template(
        as_chat(case.messages), chat_template=file.read_text(), tokenize=False, add_generation_prompt=True
    )
    assert ChatTemplate(file).render(case.messages) == expected
    assert expected.endswith("<think>\n") == thinking


def streamed(tokenizer: Tokenizer, token_ids: list[int]) -> str:
    """The text of tokens that come one at a time."""
    stream = Utf8Stream()
    return "".join(stream.feed(tokenizer.detokenize([token_id])) for token_id in token_ids) + stream.flush()


def as_chat(messages: tuple[Message, ...]) -> list[dict[str, object]]:
    return [{"role": m.role, "content": [as_dict(part) for part in m.content]} for m in messages]


def qwen3_special_tokens() -> SpecialTokens:
    return SpecialTokens(
        image_pad=151655,
        video_pad=151656,
        vision_start=151652,
        vision_end=151653,
        eos=(151645, 151643),
        think_start=151667,
        think_end=151668,
    )
