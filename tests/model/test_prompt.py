from pathlib import Path

import numpy as np
import pytest
import tokenizers

from edge_runtime.errors import BadParameter, BadPrompt, BundleError, ContextOverflow
from edge_runtime.families.qwen3_vl.processor import Placeholder, TokenGrid
from edge_runtime.model.conversation import ImagePart, Message, TextPart, VideoPart
from edge_runtime.model.manifest import SpecialTokens, load_manifest
from edge_runtime.model.prompt import PromptBuilder, PromptOptions
from edge_runtime.model.template import ChatTemplate
from edge_runtime.model.tokenizer import MAX_TOKENIZER_BYTES, Tokenizer

PIXELS = np.zeros((2, 2, 3), np.uint8)
IMAGE = Placeholder("image", (TokenGrid(2, 3),), ())
VIDEO = Placeholder("video", (TokenGrid(1, 2), TokenGrid(1, 2)), (0.25, 1.75))


@pytest.fixture(scope="module")
def tokenizer(tiny_bundle: Path) -> Tokenizer:
    return Tokenizer(tiny_bundle / "tokenizer.json")


@pytest.fixture(scope="module")
def special(tiny_bundle: Path) -> SpecialTokens:
    return load_manifest(tiny_bundle).special_tokens


@pytest.fixture(scope="module")
def builder(tiny_bundle: Path, tokenizer: Tokenizer, special: SpecialTokens) -> PromptBuilder:
    return PromptBuilder(tokenizer, ChatTemplate(tiny_bundle / "chat_template.jinja"), special)


def user(*parts: object) -> tuple[Message, ...]:
    return (Message("user", tuple(TextPart(part) if isinstance(part, str) else part for part in parts)),)  # type: ignore[misc]


def test_image_becomes_one_pad_per_merged_token(
    builder: PromptBuilder, tokenizer: Tokenizer, special: SpecialTokens
) -> None:
    prompt = builder.build(user("look ", ImagePart(PIXELS), " here"), [IMAGE])
    before = tokenizer.encode("<|im_start|>user\nlook <|vision_start|>")
    after = tokenizer.encode("<|vision_end|> here<|im_end|>\n<|im_start|>assistant\n")
    assert prompt.input_ids.tolist() == [*before, *[special.image_pad] * 6, *after]
    assert [(span.start, span.stop) for span in prompt.spans] == [(len(before), len(before) + 6)]
    assert not prompt.starts_in_reasoning


def test_video_becomes_timestamps_and_frames(builder: PromptBuilder, tokenizer: Tokenizer) -> None:
    prompt = builder.build(user(VideoPart((PIXELS,) * 4, (0.0, 0.5, 1.5, 2.0))), [VIDEO])
    frame = "<|vision_start|><|video_pad|><|video_pad|><|vision_end|>"
    text = f"<|im_start|>user\n<0.2 seconds>{frame}<1.8 seconds>{frame}<|im_end|>\n<|im_start|>assistant\n"
    assert prompt.input_ids.tolist() == tokenizer.encode(text).tolist()
    assert [span.grid for span in prompt.spans] == list(VIDEO.grids)


@pytest.mark.parametrize("pad", ["<|image_pad|>", "<|video_pad|>", "<|vision_start|><|image_pad|><|vision_end|>"])
def test_placeholder_in_text_is_refused(builder: PromptBuilder, pad: str) -> None:
    with pytest.raises(BadPrompt, match="placeholder"):
        builder.build(user(f"see {pad}", ImagePart(PIXELS)), [IMAGE])


def test_template_that_leaves_out_an_image_is_noticed(
    tmp_path: Path, tokenizer: Tokenizer, special: SpecialTokens
) -> None:
    (tmp_path / "t.jinja").write_text("{{ messages[0].content[0].text }}")
    builder = PromptBuilder(tokenizer, ChatTemplate(tmp_path / "t.jinja"), special)
    with pytest.raises(BadPrompt, match="the chat template placed 0"):
        builder.build(user("a", ImagePart(PIXELS)), [IMAGE])


def test_open_think_is_noticed(tmp_path: Path, tokenizer: Tokenizer, special: SpecialTokens) -> None:
    (tmp_path / "t.jinja").write_text("{{ messages[0].content[0].text }}<|im_start|>assistant\n<think>\n")
    builder = PromptBuilder(tokenizer, ChatTemplate(tmp_path / "t.jinja"), special)
    assert builder.build(user("a"), []).starts_in_reasoning


def test_no_messages_and_lone_surrogates(builder: PromptBuilder) -> None:
    with pytest.raises(BadPrompt, match="at least one message"):
        builder.build((), [])
    with pytest.raises(BadPrompt, match="Unicode"):
        builder.build(user("\ud800"), [])


def test_template_helpers_and_sandbox(tmp_path: Path) -> None:
    path = tmp_path / "t.jinja"

    def render(source: str) -> str:
        path.write_text(source)
        return ChatTemplate(path).render(user("é<"))

    assert render("{{ messages | tojson }}").endswith('"content": "é<"}]')
    assert render("{% for i in [1, 2, 3] %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}") == "1"
    assert render("{% generation %}{{ 'x' }}{% endgeneration %}") == "x"
    assert len(render("{{ strftime_now('%Y') }}")) == 4
    for hostile in (
        "{{ raise_exception('no') }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ 1/0 }}",
    ):
        with pytest.raises(BadPrompt):
            render(hostile)
    with pytest.raises(BundleError):
        render("{% for %}")


def test_detokenize_gives_exact_bytes(tokenizer: Tokenizer) -> None:
    text = "naïve 日本 \x00\n\t🙂"
    ids = tokenizer.encode(text)
    assert tokenizer.detokenize(ids) == text.encode()
    assert b"".join(tokenizer.detokenize([token]) for token in ids) == text.encode()


def test_special_tokens_have_no_bytes_but_added_plain_ones_have(tokenizer: Tokenizer) -> None:
    assert tokenizer.detokenize(tokenizer.encode("<|im_end|>")) == b""
    assert tokenizer.detokenize(tokenizer.encode("<think>")) == b"<think>"
    assert tokenizer.detokenize([-1, 10**6]) == b""


def test_a_tokenizer_that_is_not_byte_level_is_refused(tmp_path: Path) -> None:
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a"))
    words.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(BundleError, match="byte-level BPE only"):
        Tokenizer(tmp_path / "tokenizer.json")


def test_a_text_that_the_tokenizer_gives_up_on_is_a_bad_prompt(tiny_bundle: Path, tmp_path: Path) -> None:
    library = tokenizers.Tokenizer.from_file(str(tiny_bundle / "tokenizer.json"))
    backtracks = tokenizers.pre_tokenizers.Split(tokenizers.Regex("(a+)+$"), "isolated")
    library.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([backtracks, library.pre_tokenizer])
    library.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer(tmp_path / "tokenizer.json")
    with pytest.raises(BadPrompt, match="gives up on this text"):
        tokenizer.encode("a" * 60 + "!")
    assert len(tokenizer.encode("b!")) == 2  # and it goes on


def test_a_tokenizer_of_absurd_size_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "tokenizer.json").open("wb") as file:
        file.truncate(MAX_TOKENIZER_BYTES + 1)  # a hole: it takes no room
    with pytest.raises(BundleError, match="bytes"):
        Tokenizer(tmp_path / "tokenizer.json")


def test_a_token_that_is_not_made_of_bytes_is_named(tmp_path: Path) -> None:
    odd = tokenizers.Tokenizer(tokenizers.models.BPE({"日": 0}, []))
    odd.decoder = tokenizers.decoders.ByteLevel()
    odd.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(BundleError, match="token 0 '日' is not byte-level"):
        Tokenizer(tmp_path / "tokenizer.json").detokenize([0])


class NeverRendered:
    def render(self, messages: object) -> str:
        raise AssertionError("the template was rendered")


class NeverEncoded:
    """A tokenizer that may count and name, but not encode."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.token_text = tokenizer.token_text
        self.min_tokens = tokenizer.min_tokens
        self.added_tokens = tokenizer.added_tokens
        self.pair_of_added = tokenizer.pair_of_added


def test_pictures_beyond_the_context_are_refused_before_any_text_is_made(
    tokenizer: Tokenizer, special: SpecialTokens
) -> None:
    builder = PromptBuilder(tokenizer, NeverRendered(), special)  # type: ignore[arg-type]
    with pytest.raises(ContextOverflow, match="images and videos alone take at least 60000 tokens"):
        builder.build(user(*[ImagePart(PIXELS)] * 10_000), [IMAGE] * 10_000, max_context=4096)


def test_text_beyond_the_context_is_refused_before_it_is_tokenized(
    tiny_bundle: Path, tokenizer: Tokenizer, special: SpecialTokens
) -> None:
    template = ChatTemplate(tiny_bundle / "chat_template.jinja")
    builder = PromptBuilder(NeverEncoded(tokenizer), template, special)  # type: ignore[arg-type]
    with pytest.raises(ContextOverflow, match="the text alone"):
        builder.build(user("word " * 100_000), [], max_context=4096)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        " " * 5000,
        " " * 70_000,
        "word " * 20_000,
        "e\u0301" * 30_000,
        "🙂" * 20_000,
        "word " * 99,
        "e\u0301" * 999,
        "\u1100\u1161\u11a8" * 99,
        "<|im_end|><think>" * 99,
        "🙂日本",
    ],
)
def test_no_text_has_fewer_tokens_than_its_lower_bound(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.min_tokens(text) <= len(tokenizer.encode(text))


SWITCH = "{{ messages[0].content[0].text }}{% if enable_thinking %}<think>\n{% endif %}"


def test_request_switches_thinking_where_the_template_can(
    tmp_path: Path, tokenizer: Tokenizer, special: SpecialTokens
) -> None:
    (tmp_path / "t.jinja").write_text(SWITCH)
    builder = PromptBuilder(tokenizer, ChatTemplate(tmp_path / "t.jinja"), special)
    thinks = {
        wish: builder.build(user("a"), [], options=PromptOptions(wish)).starts_in_reasoning
        for wish in (None, False, True)
    }
    assert thinks == {None: False, False: False, True: True}


@pytest.mark.parametrize(("opening", "habit"), [("", "never reasons"), ("<think>\n", "always reasons")])
def test_thinking_that_a_template_cannot_do_is_refused(
    opening: str, habit: str, tmp_path: Path, tokenizer: Tokenizer, special: SpecialTokens
) -> None:
    (tmp_path / "t.jinja").write_text("{{ messages[0].content[0].text }}" + opening)
    builder = PromptBuilder(tokenizer, ChatTemplate(tmp_path / "t.jinja"), special)
    always = bool(opening)
    assert builder.build(user("a"), [], options=PromptOptions(always)).starts_in_reasoning is always
    with pytest.raises(BadParameter, match=habit):
        builder.build(user("a"), [], options=PromptOptions(not always))
