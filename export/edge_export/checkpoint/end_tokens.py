"""At which tokens an answer ends: all that any file of the checkpoint names.

transformers' `generate` stops at those of `generation_config.json` alone, and chat servers at the tokenizer's, too.
Base models and careless fine-tunes name one and end their turns with another; none of them is ever part of an answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from edge_export.checkpoint.json_file import JsonObject, read_json_if_there, short
from edge_export.errors import ConfigError, TokenizerError

_ENDS_A_TURN = re.compile(
    r"<\|?(?:im_end|endoftext|eo[stm](?:_id)?|end(?:_?of_?(?:turn|text|sentence|utterance|message))?|/s)\|?>"
)
"""Spellings of the token that closes a turn, in Qwen's family and in others whose templates fine-tunes borrow."""


def read_end_tokens(folder: Path, config: JsonObject, ids: Mapping[str, int], template: str) -> tuple[int, ...]:
    """Ids of all end tokens: of the generation config, the model config, the tokenizer, and those the template writes.

    `ids` are the tokenizer's added tokens. Raises `ConfigError` for what is no list of ids, and `TokenizerError` where
    a name has no id, or there is no end token at all.
    """
    found: list[int] = []
    for place in (read_json_if_there(folder / "generation_config.json"), config, config.child("text_config")):
        found += _ids_of(place)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (text := _token_text(read_json_if_there(folder / name))) is not None:
            if text not in ids:
                raise TokenizerError(
                    f"{name} names the end token {short(text)}, which tokenizer.json does not have among its added "
                    "tokens; take both files from the same model"
                )
            found.append(ids[text])
    found += [token_id for text, token_id in ids.items() if _ENDS_A_TURN.fullmatch(text) and text in template]
    if not found:
        raise TokenizerError(
            f"{folder} names no end token: neither generation_config.json nor config.json has an eos_token_id, "
            "tokenizer_config.json no eos_token, and the chat template ends no turn; take these files from the model's "
            "original repository"
        )
    return tuple(dict.fromkeys(found))


def _ids_of(place: JsonObject) -> tuple[int, ...]:
    if "eos_token_id" not in place:
        return ()
    if not isinstance(place.values["eos_token_id"], list):
        return (place.integer("eos_token_id", minimum=0),)
    ids = place.integers("eos_token_id")
    if not ids or min(ids) < 0:
        raise ConfigError(f"{place.place}: eos_token_id is {short(list(ids))}; it must be ids of tokens, or null")
    return ids


def _token_text(settings: JsonObject) -> str | None:
    if "eos_token" not in settings:
        return None
    if isinstance(settings.values["eos_token"], dict):
        return settings.child("eos_token").string("content")
    return settings.string("eos_token")
