"""What a tokenizer may be made of: the parts that byte-level BPE tokenizers of this kind of model have.

A `tokenizer.json` is a program of strangers as well: other parts of the library can panic, abort the process, or make
gigabytes of a word. Knows nothing of files or prompts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import BPE

_NORMALIZERS = {"NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Strip"}
_PRE_TOKENIZERS = {"ByteLevel", "Split", "Digits", "Punctuation", "Whitespace", "WhitespaceSplit"}
_POST_PROCESSORS = {"ByteLevel", "TemplateProcessing"}
_MAX_PARTS = 16
_MAX_PATTERN_CHARS = 1 << 14
"""Qwen's pattern has some 130."""


def check_parts(tokenizer: Tokenizer) -> None:
    """Raise `ValueError` for a tokenizer that is not byte-level BPE made of the parts above."""
    model = tokenizer.model
    if not isinstance(model, BPE):
        raise ValueError(
            f"its model is {type(model).__name__}; this runtime reads byte-level BPE only, the kind of Qwen"
        )
    if model.dropout:
        raise ValueError(f"it has a dropout of {model.dropout}, which draws its tokens by lot; set it to null")
    if model.continuing_subword_prefix or model.end_of_word_suffix:
        raise ValueError("it marks parts of words with a prefix or suffix, which byte-level BPE does not")
    for what, part, allowed in (
        ("normalizer", tokenizer.normalizer, _NORMALIZERS),
        ("pre_tokenizer", tokenizer.pre_tokenizer, _PRE_TOKENIZERS),
        ("post_processor", tokenizer.post_processor, _POST_PROCESSORS),
    ):
        _check(what, [] if part is None else list(_flat(json.loads(part.__getstate__()))), allowed)


def _check(what: str, parts: list[dict[str, Any]], allowed: set[str]) -> None:
    kinds = [str(part.get("type")) for part in parts]
    odd = sorted(set(kinds) - allowed)
    if odd:
        raise ValueError(f"its {what} has {', '.join(odd)}; tried are {', '.join(sorted(allowed))}")
    if len(kinds) > _MAX_PARTS or kinds.count("ByteLevel") > 1:
        raise ValueError(
            f"its {what} has {len(kinds)} parts, {kinds.count('ByteLevel')} of them ByteLevel; that is a bomb"
        )
    for part in parts:
        if len(str(part.get("pattern"))) > _MAX_PATTERN_CHARS:
            raise ValueError(f"its {what} has a pattern of {len(str(part['pattern']))} characters")
        if part["type"] == "TemplateProcessing":
            _check_template(part)


def _check_template(part: dict[str, Any]) -> None:
    """Every special token it adds must be one that it defines, by one id each."""
    defined = part.get("special_tokens", {})
    for piece in (*part["single"], *part["pair"]):
        name = piece.get("SpecialToken", {}).get("id")
        if name is not None and len(defined.get(name, {}).get("ids", ())) != 1:
            raise ValueError(f"its post_processor adds {name!r}, which it does not define by one id")


def _flat(part: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The parts inside sequences of sequences."""
    inner = next((part[key] for key in ("normalizers", "pretokenizers", "processors") if key in part), None)
    if inner is None:
        yield part
        return
    for one in inner:
        yield from _flat(one)
