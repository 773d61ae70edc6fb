"""The special token ids of a checkpoint's tokenizer files. Never tokenizes anything."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

from edge_export.checkpoint.chat_template import read_chat_template
from edge_export.checkpoint.end_tokens import read_end_tokens
from edge_export.checkpoint.json_file import JsonObject, read_json
from edge_export.checkpoint.token_names import check_added_tokens
from edge_export.errors import ConfigError, TokenizerError
from edge_runtime.model.manifest import SpecialTokens

PLACEHOLDERS = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}
"""Fields of config.json, and the text by which the chat template writes the same token."""


def read_special_tokens(folder: Path, config: JsonObject, vocab_size: int) -> SpecialTokens:
    """Ids of the tokens the runtime needs by meaning, checked against `tokenizer.json` and the vocabulary.

    Raises `TokenizerError` where `tokenizer.json` is missing or disagrees with `config.json`.
    """
    ids, largest = _token_ids(folder)
    check_added_tokens(folder, ids)
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
        if "" in ids or len(set(ids.values())) < len(added):
            raise ValueError("an added token is empty, is there twice, or shares its id")
        return ids, max([int(of_vocab), *ids.values()])
    except (ConfigError, msgspec.ValidationError, KeyError, TypeError, ValueError) as error:
        raise TokenizerError(f"{folder / 'tokenizer.json'} is damaged ({error}); download it again") from error
