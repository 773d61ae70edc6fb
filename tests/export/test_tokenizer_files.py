from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge_export.checkpoint.checkpoint import open_checkpoint
from edge_export.errors import ExportError, TokenizerError
from tests.export.small_model import edit_json


def test_special_tokens(checkpoint: Path) -> None:
    tokens = open_checkpoint(str(checkpoint)).special_tokens
    assert (tokens.vision_start, tokens.vision_end, tokens.image_pad, tokens.video_pad) == (969, 970, 972, 973)
    assert tokens.eos == (962, 960)
    assert (tokens.think_start, tokens.think_end) == (984, 985)


def test_a_tokenizer_without_think_pair(checkpoint: Path) -> None:
    def drop(tokenizer: dict[str, list[dict[str, object]]]) -> None:
        tokenizer["added_tokens"] = [t for t in tokenizer["added_tokens"] if "think" not in str(t["content"])]

    edit_json(checkpoint / "tokenizer.json", drop)
    tokens = open_checkpoint(str(checkpoint)).special_tokens
    assert (tokens.think_start, tokens.think_end) == (None, None)


def test_end_token_fallbacks(checkpoint: Path) -> None:
    (checkpoint / "generation_config.json").unlink()
    assert open_checkpoint(str(checkpoint)).special_tokens.eos == (962,)  # text_config of config.json
    edit_json(checkpoint / "config.json", lambda c: c["text_config"].pop("eos_token_id"))
    assert open_checkpoint(str(checkpoint)).special_tokens.eos == (962,)  # tokenizer_config.json
    edit_json(checkpoint / "tokenizer_config.json", lambda c: c.update(eos_token={"content": "<|endoftext|>"}))
    assert open_checkpoint(str(checkpoint)).special_tokens.eos == (960,)
    edit_json(checkpoint / "tokenizer_config.json", lambda c: c.pop("eos_token"))
    with pytest.raises(TokenizerError, match="no end token"):
        open_checkpoint(str(checkpoint))


@pytest.mark.parametrize("home", ["chat_template.json", "tokenizer_config.json"])
def test_chat_template_in_its_other_homes(checkpoint: Path, home: str) -> None:
    template = (checkpoint / "chat_template.jinja").read_text()
    (checkpoint / "chat_template.jinja").unlink()
    values = json.loads((checkpoint / home).read_text()) if (checkpoint / home).exists() else {}
    (checkpoint / home).write_text(json.dumps(values | {"chat_template": template}))
    assert open_checkpoint(str(checkpoint)).chat_template == template


def test_no_chat_template(checkpoint: Path) -> None:
    (checkpoint / "chat_template.jinja").unlink()
    with pytest.raises(TokenizerError, match="no chat template"):
        open_checkpoint(str(checkpoint))


def test_no_tokenizer(checkpoint: Path) -> None:
    (checkpoint / "tokenizer.json").unlink()
    with pytest.raises(TokenizerError, match=r"no tokenizer\.json"):
        open_checkpoint(str(checkpoint))


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"added_tokens": [{}]}', '{"added_tokens": 7}', "\x00\xff"])
def test_a_damaged_tokenizer(checkpoint: Path, content: str) -> None:
    (checkpoint / "tokenizer.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(TokenizerError, match="damaged"):
        open_checkpoint(str(checkpoint))


@pytest.mark.parametrize("field", ["image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id"])
def test_ids_of_another_tokenizer(checkpoint: Path, field: str) -> None:
    edit_json(checkpoint / "config.json", lambda c: c.update({field: 5}))
    with pytest.raises(TokenizerError, match=field):
        open_checkpoint(str(checkpoint))
    edit_json(checkpoint / "config.json", lambda c: c.pop(field))
    with pytest.raises(ExportError, match=field):
        open_checkpoint(str(checkpoint))


def test_a_vocabulary_smaller_than_the_tokenizer(checkpoint: Path) -> None:
    edit_json(checkpoint / "config.json", lambda c: c["text_config"].update(vocab_size=980))
    with pytest.raises(TokenizerError, match="vocabulary ends at 979"):
        open_checkpoint(str(checkpoint))
