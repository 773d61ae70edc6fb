"""What a checkpoint's tokenizer files say of special tokens: ids, names, and where an answer ends. Tokenizes nothing.

Names (`bos_token`, `eos_token`, ...) are as transformers hands them to every chat template. `tokenizer_config.json` has
them, as strings or as records of a token; older folders, those whose tokenizer_config.json has no
`added_tokens_decoder`, have them in `special_tokens_map.json`, which then wins. See
`PreTrainedTokenizerBase._from_pretrained` and `special_tokens_map` (transformers 4.57).

An answer ends at all tokens that any file names. transformers' `generate` stops at those of `generation_config.json`
alone, and chat servers at the tokenizer's, too. Base models and careless fine-tunes name one and end their turns with
another; none of them is ever part of an answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec

from edge_export.checkpoint.json_file import JsonObject, read_json, read_json_if_there, short
from edge_export.checkpoint.texts import read_chat_template
from edge_export.errors import ConfigError, TokenizerError
from edge_runtime.model.manifest import SpecialTokens

PLACEHOLDERS = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}
"""Fields of config.json, and the text by which the chat template writes the same token."""

_ENDS_A_TURN = re.compile(
    r"<\|?(?:im_end|endoftext|eo[stm](?:_id)?|end(?:_?of_?(?:turn|text|sentence|utterance|message))?|/s)\|?>"
)
"""Spellings of the token that closes a turn, in Qwen's family and in others whose templates fine-tunes borrow."""

_SINGLE = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_SEVERAL = "additional_special_tokens"
_EXTRA = "extra_special_tokens"
_QWEN2_DEFAULTS = {"unk_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
"""What Qwen2Tokenizer takes for names that the file leaves out (not for those that it sets to null)."""


def read_special_tokens(folder: Path, config: JsonObject, vocab_size: int) -> SpecialTokens:
    """Ids of the tokens the runtime needs by meaning, checked against `tokenizer.json` and the vocabulary.

    Raises `TokenizerError` where `tokenizer.json` is missing or disagrees with `config.json`.
    """
    ids, largest = _token_ids(folder)
    _check_added_tokens(folder, ids)
    for field, token in PLACEHOLDERS.items():
        if ids.get(token) != (wanted := config.integer(field)):
            raise TokenizerError(
                f"tokenizer.json gives {token} the id {ids.get(token)}, config.json says {field} is {wanted}; "
                "take both files from the same model"
            )
    tokens = SpecialTokens(
        image_pad=ids["<|image_pad|>"],
        video_pad=ids["<|video_pad|>"],
        vision_start=ids["<|vision_start|>"],
        vision_end=ids["<|vision_end|>"],
        eos=_read_end_tokens(folder, config, ids, read_chat_template(folder)),
        think_start=ids.get("<think>"),
        think_end=ids.get("</think>"),
    )
    if (largest := max(largest, *tokens.eos)) >= vocab_size:
        raise TokenizerError(
            f"the tokenizer has token id {largest}, but the model's vocabulary ends at {vocab_size - 1}; "
            "take tokenizer.json and config.json from the same model"
        )
    return tokens


def read_special_tokens_map(folder: Path) -> dict[str, str | tuple[str, ...]]:
    """Names and texts of the special tokens; names without a token are left out, as transformers leaves them out.

    Raises `TokenizerError` for a name that stands for something else than text.
    """
    settings = read_json_if_there(folder / "tokenizer_config.json").values
    values: dict[str, Any] = {}
    if str(settings.get("tokenizer_class", "")).startswith("Qwen2Tokenizer"):
        values |= _QWEN2_DEFAULTS
    values |= settings
    if "added_tokens_decoder" not in settings:
        values |= {k: v for k, v in read_json_if_there(folder / "special_tokens_map.json").values.items() if v}
    names = {name: _text(values[name], name) for name in _SINGLE if values.get(name)}
    extra = values.get(_EXTRA)
    if isinstance(extra, dict):  # a model's own names, as `image_token`
        names |= {str(name): _text(value, name) for name, value in extra.items() if value}
    several = values.get(_SEVERAL)
    if several and not isinstance(several, list):
        raise TokenizerError(f"tokenizer_config.json: {_SEVERAL} is {short(several)}; it must be a list of tokens")
    return names | ({_SEVERAL: tuple(_text(value, _SEVERAL) for value in several)} if several else {})


class _AddedToken(msgspec.Struct):
    id: Annotated[int, msgspec.Meta(ge=0)]
    content: str


def _token_ids(folder: Path) -> tuple[dict[str, int], int]:
    """Ids of the added (special) tokens of `tokenizer.json`, and the largest id of any token."""
    if not (folder / "tokenizer.json").exists():
        raise TokenizerError(
            f"{folder} has no tokenizer.json; add it from the model's original repository, or save it with "
            "AutoTokenizer.from_pretrained(...).save_pretrained(...)"
        )
    try:
        tokenizer = read_json(folder / "tokenizer.json")
        added = msgspec.convert(tokenizer.values["added_tokens"], list[_AddedToken])
        vocab = tokenizer.child("model").values["vocab"]
        of_vocab = max(vocab.values(), default=0) if isinstance(vocab, dict) else len(vocab) - 1
        ids = {token.content: token.id for token in added}
        if "" in ids or len(set(ids.values())) < len(added):
            raise ValueError("an added token is empty, is there twice, or shares its id")
        return ids, max([int(of_vocab), *ids.values()])
    except (ConfigError, msgspec.ValidationError, KeyError, TypeError, ValueError) as error:
        raise TokenizerError(f"{folder / 'tokenizer.json'} is damaged ({error}); download it again") from error


def _check_added_tokens(folder: Path, ids: dict[str, int]) -> None:
    """Raise `TokenizerError` for tokens that other files add to what `tokenizer.json` has: `ids` are its own."""
    decoder = read_json_if_there(folder / "tokenizer_config.json").values.get("added_tokens_decoder")
    if isinstance(decoder, dict):
        place, wanted = (
            "tokenizer_config.json",
            {_text(token, "a token"): str(index) for index, token in decoder.items()},
        )
    else:
        added = read_json_if_there(folder / "added_tokens.json").values
        place, wanted = "added_tokens.json", {token: str(index) for token, index in added.items()}
    odd = [f"{short(token)} ({index})" for token, index in wanted.items() if str(ids.get(token)) != index]
    if odd:
        raise TokenizerError(
            f"{place} has tokens that tokenizer.json lacks, or has by another id: {', '.join(odd[:5])}"
            f"{', ...' if len(odd) > 5 else ''}; write both anew with "
            "AutoTokenizer.from_pretrained(...).save_pretrained(...) and export what that gives"
        )


def _read_end_tokens(folder: Path, config: JsonObject, ids: Mapping[str, int], template: str) -> tuple[int, ...]:
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


def _text(token: Any, name: str) -> str:
    text = token.get("content") if isinstance(token, dict) else token
    if not isinstance(text, str):
        raise TokenizerError(f"tokenizer_config.json: {name} is {short(token)}; it must be the text of a token")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TokenizerError(f"tokenizer_config.json: {name} is not valid Unicode: {error}") from error
    return text
