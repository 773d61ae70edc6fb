"""The special tokens by name (`bos_token`, `eos_token`, ...), as transformers hands them to every chat template.

`tokenizer_config.json` has them, as strings or as records of a token; older folders, those whose tokenizer_config.json
has no `added_tokens_decoder`, have them in `special_tokens_map.json`, which then wins. See
`PreTrainedTokenizerBase._from_pretrained` and `special_tokens_map` (transformers 4.57).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edge_export.checkpoint.json_file import read_json_if_there, short
from edge_export.errors import TokenizerError

_SINGLE = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_SEVERAL = "additional_special_tokens"
_EXTRA = "extra_special_tokens"
_QWEN2_DEFAULTS = {"unk_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
"""What Qwen2Tokenizer takes for names that the file leaves out (not for those that it sets to null)."""


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


def check_added_tokens(folder: Path, ids: dict[str, int]) -> None:
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


def _text(token: Any, name: str) -> str:
    text = token.get("content") if isinstance(token, dict) else token
    if not isinstance(text, str):
        raise TokenizerError(f"tokenizer_config.json: {name} is {short(token)}; it must be the text of a token")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TokenizerError(f"tokenizer_config.json: {name} is not valid Unicode: {error}") from error
    return text
