"""The pocket tokenizer: bytes, plus whole words for everything that questions and answers are phrased in.

What is on a screen is spelled character by character, so reading never has to guess how a string is cut; what the
project itself words (`Where is`, `{"action":"click"`) is one token a word, so prompts stay short. It is an ordinary
byte-level BPE file with no merges and `ignore_merges`, which takes a word whole when the vocabulary has it.
"""

import json
import re
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from pocket.screens.painter import measure
from pocket.screens.questions import TASKS, ask_change
from pocket.screens.screen import KINDS, STATES, Element, Screen
from pocket.screens.templates import compose
from pocket.screens.words import Phrases

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
           "<|image_pad|>", "<|video_pad|>")  # fmt: skip
THINK = ("<think>", "</think>")
_SPLIT = (  # Qwen2's own
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_EXTRA = (
    "system user assistant is now appeared disappeared says nothing changed yes no enabled disabled not on this screen "
    "seconds"
)


def _pre_tokenizer() -> pre_tokenizers.PreTokenizer:
    split = pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


class _Nameless(Phrases):
    """Phrases whose every name is a digit, so that sampled questions show only their wording."""

    def name(self, rng: Random, max_words: int = 2) -> str:  # noqa: ARG002
        return "7"

    value = price = word = name  # type: ignore[assignment]


def _words() -> list[str]:
    """Every multi-character piece that questions and answers are phrased with, most frequent wordings first."""
    splitter, phrases = _pre_tokenizer(), Phrases("train")
    rng = Random(0)
    texts = [*KINDS, *(f" {kind}" for kind in KINDS), *STATES, *(f" {state}" for state in STATES)]
    texts += [*_EXTRA.split(), *(f" {word}" for word in _EXTRA.split()), '":"', "7\n7", '"7"\n7', "</think>\n\n7"]
    for _ in range(400):
        screen = measure(compose(rng, phrases, 384, 256))
        blank = tuple(Element(e.kind, "7", e.box, e.target, e.state, _digits(e.value)) for e in screen.elements)
        blank_screen = Screen(screen.width, screen.height, blank)
        for task in TASKS:
            turn = task(rng, blank_screen, _Nameless("train"))
            if turn is not None:
                texts += [turn.question, turn.answer, turn.thought]
        texts += [ask_change(rng, "").question, 'now says "7"']
    pieces: dict[str, None] = {}
    for text in texts:
        for piece, _span in splitter.pre_tokenize_str(text):
            if len(piece) > 1 and not re.search(r"[0-9$]", piece):
                pieces[piece] = None
    return sorted(pieces)


def _digits(value: str) -> str:
    """A value with nothing in it but what its questions depend on: whether there is one, and whether it is a price."""
    return "$7" if value.startswith("$") else "7" * bool(value)


def build(path: Path) -> None:
    """Writes a new `tokenizer.json`: only for a new model, since weights depend on every id.

    The committed file is from before the wording `Read everything.`, whose second word it spells.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*alphabet, *_words()])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = _pre_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.add_tokens(list(THINK))
    tokenizer.save(str(path))


WEIGHTS = Path(__file__).parents[1] / "weights"


@lru_cache(maxsize=1)
def load() -> Tokenizer:
    """The committed tokenizer."""
    return Tokenizer.from_file(str(WEIGHTS / "tokenizer.json"))


def vocabulary_size() -> int:
    """Rows of the embedding table: the vocabulary rounded up to a multiple of 64."""
    size: int = load().get_vocab_size()
    return -(-size // 64) * 64


def special_ids() -> dict[str, int]:
    """Ids of the special tokens by name."""
    ids = {}
    for token in SPECIAL:
        index = load().token_to_id(token)
        if index is None:
            raise ValueError(f"tokenizer.json has no {token}: build it again with pocket.train.tokenizer")
        ids[token] = index
    return ids


def tokenizer_config() -> dict[str, Any]:
    """The content of `tokenizer_config.json`."""
    return {
        "tokenizer_class": "Qwen2Tokenizer",
        "add_prefix_space": False,
        "add_bos_token": False,
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "errors": "replace",
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": False,
        "model_max_length": 8192,
        "additional_special_tokens": list(SPECIAL[1:]),
    }


if __name__ == "__main__":
    WEIGHTS.mkdir(exist_ok=True)
    if (WEIGHTS / "tokenizer.json").exists():
        raise SystemExit("weights depend on the ids in pocket/weights/tokenizer.json: delete it to start a new model")
    build(WEIGHTS / "tokenizer.json")
    (WEIGHTS / "tokenizer_config.json").write_text(json.dumps(tokenizer_config(), indent=2) + "\n")
