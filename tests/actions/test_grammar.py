"""What a grammar lets through: random walks with real tokenizers end in answers that can be read."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import llguidance.numpy
import numpy as np
import pytest
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from tokenizers import Tokenizer

from edge_runtime import actions
from edge_runtime.actions.format import load_table

REPOSITORY = Path(__file__).resolve().parents[2]
POINT_FORMATS = tuple(name for name in actions.names() if load_table(name).frame.syntax == "point")
NUM_WALKS = 200
LIMITS = {"max_lexer_states": 20_000, "max_grammar_size": 100_000}
"""Those of engine/grammar.py."""


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer, for grammars."""

    tokens: LLTokenizer
    size: int
    end_id: int
    special: frozenset[str]
    enders: np.ndarray
    """[V] bool: has a character that ends some text: drawn more often, or a walk takes all day."""

    @classmethod
    def read(cls, path: Path) -> Vocabulary:
        text = _without_gap(path.read_text(encoding="utf-8"))
        known = Tokenizer.from_str(text)
        size, end_id = known.get_vocab_size(), known.token_to_id("<|im_end|>")
        tokens = LLTokenizer(text, n_vocab=size, eos_token=[end_id])
        special = frozenset(token.content for token in known.get_added_tokens_decoder().values())
        enders = np.array([bool(set(tokens.decode_bytes([i])) & set(b"\"'<\n\t")) for i in range(size)])
        return cls(tokens, size, end_id, special, enders)

    def matcher(self, name: str) -> LLMatcher:
        source = LLMatcher.grammar_from_lark(actions.get(name).grammar(self.special))
        matcher = LLMatcher(self.tokens, source, log_level=0, limits=LLParserLimits(**LIMITS))
        assert not matcher.is_error(), matcher.get_error()
        return matcher

    def walk(self, name: str, seed: int) -> str:
        """An answer of random tokens that the grammar allows; with many words, one that comes to its end sooner."""
        eagerness = 0.3 if self.size < 10_000 else 0.8
        rng = np.random.default_rng(seed)
        matcher = self.matcher(name)
        bits = llguidance.numpy.allocate_token_bitmask(1, self.size)
        drawn: list[int] = []
        while not matcher.is_stopped():
            llguidance.numpy.fill_next_token_bitmask(matcher, bits, 0)
            allowed = np.unpackbits(bits.view(np.uint8)[0], count=self.size, bitorder="little").astype(bool)
            assert not matcher.is_error(), matcher.get_error()
            likely = allowed & self.enders
            chosen = likely if likely.any() and rng.random() < eagerness else allowed
            drawn.append(int(rng.choice(np.flatnonzero(chosen))))
            assert matcher.consume_token(drawn[-1]), matcher.get_error()
            assert len(drawn) < 5000
        return self.tokens.decode_bytes([token for token in drawn if token != self.end_id]).decode("utf-8")

    def lets_through(self, name: str, text: str) -> bool:
        matcher = self.matcher(name)
        # Special tokens are those ids, whatever stands around them.
        ids = self.tokens.tokenize_bytes(text.encode(), parse_special=True)
        return matcher.validate_tokens(ids) == len(ids) and matcher.consume_tokens(ids) and matcher.is_accepting()


def _without_gap(tokenizer: str) -> str:
    """With added tokens right behind the others: llguidance 1.9 takes no end token beyond the number of tokens."""
    parts = json.loads(tokenizer)
    added, vocab = parts["added_tokens"], parts["model"]["vocab"]
    words = {word: number for word, number in vocab.items() if word not in {token["content"] for token in added}}
    assert sorted(words.values()) == list(range(len(words)))
    for number, token in enumerate(added, len(words)):
        token["id"] = number
    parts["model"]["vocab"] = words
    return json.dumps(parts)


@pytest.fixture(scope="module")
def pocket() -> Vocabulary:
    """Bytes and some words; no token is `<tool_call>`."""
    return Vocabulary.read(REPOSITORY / "pocket" / "weights" / "tokenizer.json")


@pytest.fixture(scope="module")
def tiny(tiny_checkpoint: Path) -> Vocabulary:
    return Vocabulary.read(tiny_checkpoint / "tokenizer.json")


@pytest.fixture(scope="module")
def qwen3(qwen3_folder: Path) -> Vocabulary:
    return Vocabulary.read(qwen3_folder / "tokenizer.json")


def check_walks(vocabulary: Vocabulary, name: str, count: int) -> None:
    table = load_table(name)
    seen = set()
    for seed in range(count):
        text = vocabulary.walk(name, seed)
        (action,) = actions.get(name).parse(text)
        seen.add(action.kind)
        for point in filter(None, (action.point, action.point2)):
            assert all(type(value) is int and 0 <= value <= table.divisor for value in point), text
        placed = action.in_pixels(1920, 1080)
        for point in filter(None, (placed.point, placed.point2)):
            assert 0 <= point[0] < 1920
            assert 0 <= point[1] < 1080
        assert len([key for key in action.keys if key]) == len(action.keys)
    assert len(seen) > 1 or name in POINT_FORMATS


@pytest.mark.parametrize("name", actions.names())
def test_walks_with_the_pocket_tokenizer(pocket: Vocabulary, name: str) -> None:
    check_walks(pocket, name, NUM_WALKS)


@pytest.mark.parametrize("name", actions.names())
def test_walks_with_the_tiny_tokenizer(tiny: Vocabulary, name: str) -> None:
    assert "<tool_call>" in tiny.special
    check_walks(tiny, name, NUM_WALKS)


@pytest.mark.slow
@pytest.mark.parametrize("name", actions.names())
def test_walks_with_the_tokenizer_of_qwen3(qwen3: Vocabulary, name: str) -> None:
    assert "<tool_call>" in qwen3.special
    check_walks(qwen3, name, NUM_WALKS)


def call(function: str, arguments: str) -> str:
    return f'<tool_call>\n{{"name": "{function}", "arguments": {{{arguments}}}}}\n</tool_call>'


EXAMPLES: list[tuple[str, Callable[[int], str]]] = [
    ("qwen_computer_use", lambda n: call("computer_use", f'"action": "left_click", "coordinate": [5, {n}]')),
    ("qwen_mobile_use", lambda n: call("mobile_use", f'"action": "click", "coordinate": [{n}, 5]')),
    ("gui_owl", lambda n: call("computer_use", f'"action": "scroll", "pixels": -5, "coordinate": [5, {n}]')),
    (
        "gui_owl_mobile",
        lambda n: call("mobile_use", f'"action": "swipe", "coordinate": [1, 2], "coordinate2": [3, {n}]'),
    ),
    ("evocua", lambda n: "Action: drag it\n" + call("computer_use", f'"action": "mouse_move", "coordinate": [{n}, 0]')),
    ("mai_ui", lambda n: "<thinking>\na\n\nb\n</thinking>\n".replace("\n\n", "\n")
     + call("mobile_use", f'"action":"drag", "start_coordinate": [1,2], "end_coordinate": [{n}, 4]')),
    ("mai_ui_point", lambda n: f'<answer>\n{{"coordinate": [{n},7]}}\n</answer>'),
    ("ui_venus", lambda n: f"<action>Scroll(start=(1,2), end=({n},4))</action>\n<conclusion>so</conclusion>"),
    ("ui_venus_web", lambda n: f"<action>Hover(box=({n},4))</action>"),
    ("ui_venus_point", lambda n: f"[{n},4]"),
    ("step_gui", lambda n: f"<THINK> hm </THINK>\nexplain:this\taction:CLICK\tpoint:{n},3\tsummary:all"),
    ("pocket", lambda n: f'{{"action":"click","x":3,"y":{n}}}'),
    ("pocket_point", lambda n: f"({n}, 3)"),
]  # fmt: skip


def test_every_format_has_an_example() -> None:
    assert {name for name, _ in EXAMPLES} == set(actions.names())


@pytest.mark.parametrize(("name", "example"), EXAMPLES, ids=[name for name, _ in EXAMPLES])
def test_a_coordinate_outside_cannot_be_said(
    pocket: Vocabulary, tiny: Vocabulary, name: str, example: Callable[[int], str]
) -> None:
    divisor = load_table(name).divisor
    for vocabulary in (pocket, tiny):
        for number in (0, 9, 10, 99, 500, 999, divisor):
            assert vocabulary.lets_through(name, example(number)), number
        for wrong in (-1, divisor + 1, 1001, 1920, 10_000):
            assert not vocabulary.lets_through(name, example(wrong)), wrong
        assert not vocabulary.lets_through(name, example(5).replace("5", "05"))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("qwen_computer_use", call("computer_use", '"action": "tap", "coordinate": [5, 5]')),
        ("qwen_computer_use", call("mobile_use", '"action": "left_click", "coordinate": [5, 5]')),
        ("qwen_computer_use", call("computer_use", '"action": "left_click", "coordinate": [5, 5], "button": 1')),
        ("qwen_computer_use", call("computer_use", '"action": "left_click"')),
        ("qwen_computer_use", call("computer_use", '"action": "terminate", "status": "maybe"')),
        ("qwen_computer_use", call("computer_use", '"action": "type", "text": "a\nb"')),
        ("qwen_computer_use", call("computer_use", '"action": "wait", "time": 1') * 2),
        ("ui_venus", "<action>Scroll(direction='down')</action>"),
        ("ui_venus", "<action>Type(content='it's')</action>"),
        ("step_gui", "explain:a\taction:CLICK\tpoint:1,2"),
        ("pocket", '{"action":"click","x":3}'),
        ("pocket_point", "not on this page"),
    ],
)
def test_what_is_not_of_the_format_cannot_be_said(pocket: Vocabulary, tiny: Vocabulary, name: str, text: str) -> None:
    assert not pocket.lets_through(name, text)
    assert not tiny.lets_through(name, text)


def test_a_thought_is_bounded(pocket: Vocabulary) -> None:
    example = dict(EXAMPLES)["evocua"](3)
    assert pocket.lets_through("evocua", example.replace("drag it", "d" * 500))
    assert not pocket.lets_through("evocua", example.replace("drag it", "d" * 501))


def test_refusals_can_be_said(pocket: Vocabulary) -> None:
    for name in actions.names():
        for refusal in load_table(name).refusals:
            assert pocket.lets_through(name, refusal)


def test_special_tokens_are_named_as_the_tokenizer_has_them() -> None:
    known = actions.get("qwen_mobile_use")
    assert '"<tool_call>\\n" action' in known.grammar()
    assert '<tool_call> "\\n" action "\\n" </tool_call>' in known.grammar(["<tool_call>", "</tool_call>", "<think>"])
    # A thought with tokens of its own is the engine's.
    assert "<think>" in actions.get("ui_venus").grammar()
    assert "<think>" not in actions.get("ui_venus").grammar(["<think>", "</think>"])
