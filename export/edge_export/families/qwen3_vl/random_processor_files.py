"""The files around a random checkpoint's weights: tokenizer, chat template, processor and generation settings.

The tokenizer is a small byte-level BPE of our own: 256 bytes, all pairs of two lower-case letters as merges, and
Qwen's special tokens at the ids that `config.json` names. The model's vocabulary may be larger; such ids mean nothing.
"""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from string import ascii_lowercase
from typing import Any

SPECIAL_TOKENS: tuple[tuple[str, bool], ...] = (
    ("<|endoftext|>", True),
    ("<|im_start|>", True),
    ("<|im_end|>", True),
    ("<|object_ref_start|>", True),
    ("<|object_ref_end|>", True),
    ("<|box_start|>", True),
    ("<|box_end|>", True),
    ("<|quad_start|>", True),
    ("<|quad_end|>", True),
    ("<|vision_start|>", True),
    ("<|vision_end|>", True),
    ("<|vision_pad|>", True),
    ("<|image_pad|>", True),
    ("<|video_pad|>", True),
    ("<tool_call>", False),
    ("</tool_call>", False),
    ("<|fim_prefix|>", False),
    ("<|fim_middle|>", False),
    ("<|fim_suffix|>", False),
    ("<|fim_pad|>", False),
    ("<|repo_name|>", False),
    ("<|file_sep|>", False),
    ("<tool_response>", False),
    ("</tool_response>", False),
    ("<think>", False),
    ("</think>", False),
)
"""Qwen3's added tokens in id order, and whether decoding skips them (`special`)."""

PRE_TOKENIZER_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Qwen2 and Qwen3 tokenizers cut text before merging."""

THINKING_SWITCH = "enable_thinking | default(false)"


def write_processor_files(out: Path, config: dict[str, Any], *, thinking: bool) -> None:
    """Write every file of a checkpoint but `config.json` and the weights into the folder `out`.

    Raises `ValueError` where the special tokens do not fit the vocabulary.
    """
    first_special_id = config["image_token_id"] - 12
    vocab_size = config["text_config"]["vocab_size"]
    if first_special_id < 256 or first_special_id + len(SPECIAL_TOKENS) > vocab_size:
        raise ValueError(
            f"vocab_size {vocab_size} with image_token_id {config['image_token_id']} leaves no room for 256 bytes "
            f"and {len(SPECIAL_TOKENS)} special tokens"
        )
    template = resources.files(__package__).joinpath("random_chat_template.jinja").read_text()
    if thinking:
        template = template.replace(THINKING_SWITCH, THINKING_SWITCH.replace("false", "true"))
    (out / "chat_template.jinja").write_text(template)
    _write_json(out / "tokenizer.json", tokenizer_json(first_special_id))
    _write_json(out / "tokenizer_config.json", _tokenizer_config(first_special_id))
    _write_json(out / "preprocessor_config.json", _image_processor(config))
    _write_json(out / "video_preprocessor_config.json", _video_processor(config))
    _write_json(out / "generation_config.json", _generation_config(first_special_id))


def byte_alphabet() -> list[str]:
    """The 256 printable characters that stand for bytes in byte-level BPE, in the vocabulary order of GPT-2.

    Printable Latin-1 bytes stand for themselves and come first; the others follow as the characters from U+0100 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = 256 - len(printable)
    return [chr(byte) for byte in printable] + [chr(0x100 + i) for i in range(others)]


def tokenizer_json(first_special_id: int) -> dict[str, Any]:
    """A `tokenizers` file: byte-level BPE with special tokens from `first_special_id` on."""
    pairs = [(a, b) for a in ascii_lowercase for b in ascii_lowercase][: first_special_id - 256]
    pieces = byte_alphabet() + [a + b for a, b in pairs]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    # Special tokens are in the vocabulary too: that pins their ids where the ids before them have holes.
    vocab |= {token: first_special_id + i for i, (token, _) in enumerate(SPECIAL_TOKENS)}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": PRE_TOKENIZER_PATTERN}, "behavior": "Isolated", "invert": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, **entry} for i, entry in _added_tokens(first_special_id)],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": byte_level,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": [list(pair) for pair in pairs],
        },
    }


def _added_tokens(first_special_id: int) -> list[tuple[int, dict[str, Any]]]:
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return [
        (first_special_id + i, {"content": token, **plain, "special": special})
        for i, (token, special) in enumerate(SPECIAL_TOKENS)
    ]


def _tokenizer_config(first_special_id: int) -> dict[str, Any]:
    return {
        "tokenizer_class": "Qwen2Tokenizer",
        "add_prefix_space": False,
        "add_bos_token": False,
        "added_tokens_decoder": {str(i): entry for i, entry in _added_tokens(first_special_id)},
        "additional_special_tokens": [token for token, special in SPECIAL_TOKENS[1:] if special],
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 262144,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "unk_token": None,
    }


def _patching(config: dict[str, Any]) -> dict[str, Any]:
    vision = config["vision_config"]
    return {
        "patch_size": vision["patch_size"],
        "temporal_patch_size": vision["temporal_patch_size"],
        "merge_size": vision["spatial_merge_size"],
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "processor_class": "Qwen3VLProcessor",
    }


def _image_processor(config: dict[str, Any]) -> dict[str, Any]:
    size = {"longest_edge": 16777216, "shortest_edge": 65536}  # pixels, whatever the names say
    return {"size": size, **_patching(config), "image_processor_type": "Qwen2VLImageProcessorFast"}


def _video_processor(config: dict[str, Any]) -> dict[str, Any]:
    size = {"longest_edge": 25165824, "shortest_edge": 4096}  # frames x pixels
    return {"size": size, **_patching(config), "video_processor_type": "Qwen3VLVideoProcessor"}


def _generation_config(first_special_id: int) -> dict[str, Any]:
    return {
        "bos_token_id": first_special_id,
        "pad_token_id": first_special_id,
        "eos_token_id": [first_special_id + 2, first_special_id],
        "do_sample": True,
        "temperature": 0.7,
        "top_k": 20,
        "top_p": 0.8,
        "repetition_penalty": 1.0,
        "transformers_version": "4.57.6",
    }


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
