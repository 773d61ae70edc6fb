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
    edit_json(
        checkpoint / "tokenizer_config.json",
        lambda c: [c["added_tokens_decoder"].pop(str(i)) for i in (984, 985)],
    )
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


def move_template(checkpoint: Path, home: str, template: object) -> None:
    """Put `template` where `home` says, and nowhere else."""
    (checkpoint / "chat_template.jinja").unlink(missing_ok=True)
    if home.endswith(".jinja"):
        (checkpoint / home).parent.mkdir(exist_ok=True)
        (checkpoint / home).write_text(str(template))
        return
    values = json.loads((checkpoint / home).read_text()) if (checkpoint / home).exists() else {}
    (checkpoint / home).write_text(json.dumps(values | {"chat_template": template}))


HOMES = (
    "chat_template.json",
    "processor_config.json",
    "tokenizer_config.json",
    "additional_chat_templates/default.jinja",
)


@pytest.mark.parametrize("home", HOMES)
def test_chat_template_in_its_other_homes(checkpoint: Path, home: str) -> None:
    template = (checkpoint / "chat_template.jinja").read_text()
    move_template(checkpoint, home, template)
    assert open_checkpoint(str(checkpoint)).chat_template == template


@pytest.mark.parametrize("home", HOMES[:3])
@pytest.mark.parametrize(
    "several",
    [
        [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "it"}],
        {"rag": "documents", "default": "it"},
    ],
)
def test_of_several_templates_the_default_is_used(checkpoint: Path, home: str, several: object) -> None:
    move_template(checkpoint, home, several)
    assert open_checkpoint(str(checkpoint)).chat_template == "it"


def test_templates_win_over_each_other_as_in_transformers(checkpoint: Path) -> None:
    for home in ("tokenizer_config.json", "processor_config.json", "chat_template.jinja", "chat_template.json"):
        plain = checkpoint / "chat_template.jinja"
        kept = plain.read_text() if home == "chat_template.json" else None
        move_template(checkpoint, home, home)
        if kept is not None:
            plain.write_text(kept)
        assert open_checkpoint(str(checkpoint)).chat_template == home
    (checkpoint / "additional_chat_templates").mkdir()
    (checkpoint / "additional_chat_templates" / "tool_use.jinja").write_text("tools")
    with pytest.raises(TokenizerError, match=r"chat_template\.json and additional_chat_templates"):
        open_checkpoint(str(checkpoint))
    (checkpoint / "chat_template.json").unlink()
    assert open_checkpoint(str(checkpoint)).chat_template == "chat_template.jinja"
    (checkpoint / "chat_template.jinja").unlink()
    with pytest.raises(TokenizerError, match='named tool_use, but none is named "default"'):
        open_checkpoint(str(checkpoint))


@pytest.mark.parametrize("template", ["\ud800 hello", 7, [1], ["x"], {"default": None}, "  ", [{"name": "default"}]])
def test_a_chat_template_that_is_no_text(checkpoint: Path, template: object) -> None:
    move_template(checkpoint, "tokenizer_config.json", template)
    with pytest.raises(ExportError):
        open_checkpoint(str(checkpoint))


def test_no_chat_template(checkpoint: Path) -> None:
    (checkpoint / "chat_template.jinja").unlink()
    with pytest.raises(TokenizerError, match="no chat template"):
        open_checkpoint(str(checkpoint))
    (checkpoint / "chat_template.jinja").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TokenizerError, match="UTF-8"):
        open_checkpoint(str(checkpoint))


def test_names_of_the_special_tokens(checkpoint: Path) -> None:
    names = open_checkpoint(str(checkpoint)).special_tokens_map
    assert (names["eos_token"], names["pad_token"]) == ("<|im_end|>", "<|endoftext|>")
    assert "bos_token" not in names
    assert "<|image_pad|>" in names["additional_special_tokens"]
    record = {"content": "<|im_start|>", "special": True}
    edit_json(checkpoint / "tokenizer_config.json", lambda c: c.update(bos_token=record, eos_token=None))
    edit_json(
        checkpoint / "tokenizer_config.json", lambda c: c.update(extra_special_tokens={"image_token": "<|image_pad|>"})
    )
    (checkpoint / "special_tokens_map.json").write_text('{"eos_token": "<|endoftext|>"}')
    names = open_checkpoint(str(checkpoint)).special_tokens_map
    assert (names["bos_token"], names["image_token"]) == ("<|im_start|>", "<|image_pad|>")
    assert "eos_token" not in names  # the decoder of added tokens makes tokenizer_config.json the one that counts
    edit_json(checkpoint / "tokenizer_config.json", lambda c: c.pop("added_tokens_decoder"))
    assert open_checkpoint(str(checkpoint)).special_tokens_map["eos_token"] == "<|endoftext|>"
    (checkpoint / "tokenizer_config.json").unlink()
    assert open_checkpoint(str(checkpoint)).special_tokens_map == {"eos_token": "<|endoftext|>"}


def test_names_that_qwen2_fills_in(checkpoint: Path) -> None:
    edit_json(checkpoint / "tokenizer_config.json", lambda c: [c.pop(name) for name in ("pad_token", "unk_token")])
    names = open_checkpoint(str(checkpoint)).special_tokens_map
    assert (names["pad_token"], names["unk_token"]) == ("<|endoftext|>", "<|endoftext|>")
    edit_json(checkpoint / "tokenizer_config.json", lambda c: c.update(tokenizer_class="PreTrainedTokenizerFast"))
    assert "pad_token" not in open_checkpoint(str(checkpoint)).special_tokens_map


@pytest.mark.parametrize("value", [7, ["a"], {"text": "a"}])
def test_names_that_are_no_tokens(checkpoint: Path, value: object) -> None:
    edit_json(checkpoint / "tokenizer_config.json", lambda c: c.update(bos_token=value))
    with pytest.raises(TokenizerError, match="bos_token"):
        open_checkpoint(str(checkpoint))


def test_tokens_that_only_the_settings_know_are_refused(checkpoint: Path) -> None:
    token = {"content": "<loc>", "special": False}
    edit_json(checkpoint / "tokenizer_config.json", lambda c: c["added_tokens_decoder"].update({"1000": token}))
    with pytest.raises(TokenizerError, match=r"'<loc>' \(1000\).*save_pretrained"):
        open_checkpoint(str(checkpoint))
    edit_json(checkpoint / "tokenizer_config.json", lambda c: c.pop("added_tokens_decoder"))
    (checkpoint / "added_tokens.json").write_text('{"<loc>": 1000, "<think>": 984}')
    with pytest.raises(TokenizerError, match=r"added_tokens\.json has tokens .*'<loc>'"):
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


@pytest.mark.parametrize(
    "change", [{"id": 2000}, {"content": "x"}, {"content": "", "id": 2000}, {"id": -1, "content": "x"}]
)
def test_added_tokens_that_contradict_each_other(checkpoint: Path, change: dict[str, object]) -> None:
    edit_json(checkpoint / "tokenizer.json", lambda t: t["added_tokens"].append({**t["added_tokens"][0], **change}))
    with pytest.raises(TokenizerError, match="damaged"):
        open_checkpoint(str(checkpoint))


def test_a_word_beyond_the_vocabulary(checkpoint: Path) -> None:
    edit_json(checkpoint / "tokenizer.json", lambda t: t["model"]["vocab"].update(zz=2**31))
    with pytest.raises(TokenizerError, match="token id 2147483648"):
        open_checkpoint(str(checkpoint))


def test_a_vocabulary_smaller_than_the_tokenizer(checkpoint: Path) -> None:
    edit_json(checkpoint / "config.json", lambda c: c["text_config"].update(vocab_size=980))
    with pytest.raises(TokenizerError, match="vocabulary ends at 979"):
        open_checkpoint(str(checkpoint))
