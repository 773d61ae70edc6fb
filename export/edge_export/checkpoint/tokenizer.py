"""The special token ids of a checkpoint's tokenizer files. Never tokenizes anything."""

from __future__ import annotations

from pathlib import Path

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
    ids, last = _token_ids(folder)
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
        eos=_end_tokens(folder, config, ids),
        think_start=ids.get("<think>"),
        think_end=ids.get("</think>"),
    )
    if (largest := max(last, *tokens.eos)) >= vocab_size:
        raise TokenizerError(
            f"the tokenizer has token id {largest}, but the model's vocabulary ends at {vocab_size - 1}; "
            "take tokenizer.json and config.json from the same model"
        )
    return tokens


def _token_ids(folder: Path) -> tuple[dict[str, int], int]:
    """Ids of the added (special) tokens of `tokenizer.json`, and the largest id of any token."""
    if not (folder / "tokenizer.json").is_file():
        raise TokenizerError(
            f"{folder} has no tokenizer.json; add it from the model's original repository, or save it with "
            "AutoTokenizer.from_pretrained(...).save_pretrained(...)"
        )
    try:
        values = read_json(folder / "tokenizer.json").values
        tokens = [(str(token["content"]), int(token["id"])) for token in values["added_tokens"]]
        vocab = [int(index) for index in values["model"]["vocab"].values()]
    except (ConfigError, KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise TokenizerError(f"{folder / 'tokenizer.json'} is damaged ({error!r}); download it again") from error
    ids = dict(tokens)
    if "" in ids or len(set(ids.values())) < len(tokens) or min([0, *ids.values(), *vocab]) < 0:
        raise TokenizerError(
            f"{folder / 'tokenizer.json'} is damaged: an added token is empty, is there twice, or shares its id; take "
            "it from the model's original repository"
        )
    return ids, max([0, *ids.values(), *vocab])


def _end_tokens(folder: Path, config: JsonObject, ids: dict[str, int]) -> tuple[int, ...]:
    """End-of-answer ids: generation_config.json, else config.json, else the tokenizer's own end token."""
    generation = folder / "generation_config.json"
    places = [read_json(generation)] if generation.is_file() else []
    places += [config, config.child("text_config")]
    for place in places:
        if "eos_token_id" in place:
            is_list = isinstance(place.values["eos_token_id"], list)
            return place.integers("eos_token_id") if is_list else (place.integer("eos_token_id", minimum=0),)
    settings = folder / "tokenizer_config.json"
    token = read_json(settings).values.get("eos_token") if settings.is_file() else None
    text = token.get("content") if isinstance(token, dict) else token
    if text not in ids:
        raise TokenizerError(
            f"{folder} names no end token: generation_config.json has no eos_token_id and tokenizer_config.json no "
            "known eos_token; take these files from the model's original repository"
        )
    return (ids[text],)
