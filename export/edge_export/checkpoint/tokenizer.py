"""The tokenizer files of a checkpoint: chat template and special token ids. Never tokenizes anything."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec

from edge_export.checkpoint.end_tokens import read_end_tokens
from edge_export.checkpoint.json_file import JsonObject, read_json
from edge_export.errors import ConfigError, TokenizerError
from edge_runtime.model.manifest import SpecialTokens

PLACEHOLDERS = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}
"""Fields of config.json, and the text by which the chat template writes the same token."""


def read_chat_template(folder: Path) -> str:
    """The Jinja chat template, wherever the checkpoint keeps it. Raises `TokenizerError` if nowhere."""
    plain = folder / "chat_template.jinja"
    if plain.is_file():
        try:
            template: Any = plain.read_text(encoding="utf-8")
        except (UnicodeDecodeError, OSError) as error:
            raise TokenizerError(f"{plain} cannot be read: {error}; it must be text in UTF-8") from error
    else:
        found = [path for name in ("chat_template.json", "tokenizer_config.json") if (path := folder / name).is_file()]
        template = next((t for path in found if (t := read_json(path).values.get("chat_template"))), None)
    if not isinstance(template, str) or not template.strip():
        raise TokenizerError(
            f"{folder} has no chat template in chat_template.jinja, chat_template.json or tokenizer_config.json; "
            "add chat_template.jinja from the model's original repository"
        )
    return template


def read_special_tokens(folder: Path, config: JsonObject, vocab_size: int) -> SpecialTokens:
    """Ids of the tokens the runtime needs by meaning, checked against `tokenizer.json` and the vocabulary.

    Raises `TokenizerError` where `tokenizer.json` is missing or disagrees with `config.json`.
    """
    ids, largest = _token_ids(folder)
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
        eos=read_end_tokens(folder, config, ids, read_chat_template(folder)),
        think_start=ids.get("<think>"),
        think_end=ids.get("</think>"),
    )
    if (largest := max(largest, *tokens.eos)) >= vocab_size:
        raise TokenizerError(
            f"the tokenizer has token id {largest}, but the model's vocabulary ends at {vocab_size - 1}; "
            "take tokenizer.json and config.json from the same model"
        )
    return tokens


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
        if len(set(ids.values())) < len(ids):
            raise ValueError("two added tokens have one id")
        return ids, max([int(of_vocab), *ids.values()])
    except (ConfigError, msgspec.ValidationError, KeyError, TypeError, ValueError) as error:
        raise TokenizerError(f"{folder / 'tokenizer.json'} is damaged ({error}); download it again") from error
