from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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


def name_no_end(folder: Path) -> None:
    """No file names an end token, and the template ends no turn."""
    (folder / "generation_config.json").unlink()
    edit_json(folder / "config.json", lambda c: c["text_config"].pop("eos_token_id"))
    edit_json(folder / "tokenizer_config.json", lambda c: c.pop("eos_token"))
    (folder / "chat_template.jinja").write_text("{{ messages[0].role }}")


def end(folder: Path, name: str, value: object) -> None:
    (folder / name).touch()
    values = json.loads((folder / name).read_text() or "{}")
    (folder / name).write_text(json.dumps(values | {"eos_token_id" if "token" not in name else "eos_token": value}))


def test_every_place_that_names_an_end_token_counts(checkpoint: Path) -> None:
    name_no_end(checkpoint)
    with pytest.raises(TokenizerError, match="names no end token"):
        open_checkpoint(str(checkpoint))
    end(checkpoint, "generation_config.json", [960, 979])
    edit_json(checkpoint / "config.json", lambda c: c.update(eos_token_id=966))
    edit_json(checkpoint / "config.json", lambda c: c["text_config"].update(eos_token_id=[960, 968]))
    end(checkpoint, "tokenizer_config.json", "<|fim_prefix|>")
    end(checkpoint, "special_tokens_map.json", {"content": "<|fim_middle|>", "lstrip": False})
    (checkpoint / "chat_template.jinja").write_text("<|im_start|>{{ messages[0].content }}<|im_end|>")
    assert open_checkpoint(str(checkpoint)).special_tokens.eos == (960, 979, 966, 968, 976, 977, 962)


@pytest.mark.parametrize("value", [None, 960, [960], [960, 962]])
def test_a_base_models_end_token_is_not_the_only_one(checkpoint: Path, value: object) -> None:
    edit_json(checkpoint / "generation_config.json", lambda c: c.update(eos_token_id=value))
    assert 962 in open_checkpoint(str(checkpoint)).special_tokens.eos
    edit_json(checkpoint / "config.json", lambda c: c["text_config"].update(eos_token_id=960))
    edit_json(checkpoint / "tokenizer_config.json", lambda c: c.update(eos_token="<|endoftext|>"))
    assert set(open_checkpoint(str(checkpoint)).special_tokens.eos) == {960, 962}


def test_the_template_says_where_turns_end(checkpoint: Path) -> None:
    name_no_end(checkpoint)
    template = checkpoint / "chat_template.jinja"
    template.write_text("<|im_start|>user <|vision_start|><|box_end|><|im_end|>")
    assert open_checkpoint(str(checkpoint)).special_tokens.eos == (962,)
    template.write_text(template.read_text() + "<|endoftext|>")
    assert set(open_checkpoint(str(checkpoint)).special_tokens.eos) == {960, 962}


@pytest.mark.parametrize("value", [-5, [], [-1], "962", [962.5], ["962"], True, [True], {"id": 962}, 1024, [962, 5000]])
@pytest.mark.parametrize("place", ["generation_config.json", "root", "text_config"])
def test_what_is_no_end_token(checkpoint: Path, place: str, value: object) -> None:
    name = place if place.endswith(".json") else "config.json"

    def edit(values: dict[str, Any]) -> None:
        (values["text_config"] if place == "text_config" else values)["eos_token_id"] = value

    edit_json(checkpoint / name, edit)
    with pytest.raises(ExportError, match=r"eos_token_id|vocabulary ends"):
        open_checkpoint(str(checkpoint))


@pytest.mark.parametrize("value", ["<|nowhere|>", 962, ["<|im_end|>"], {"content": 5}, {}])
def test_an_end_token_that_the_tokenizer_does_not_have(checkpoint: Path, value: object) -> None:
    edit_json(checkpoint / "tokenizer_config.json", lambda c: c.update(eos_token=value))
    with pytest.raises(ExportError, match=r"end token|eos_token"):
        open_checkpoint(str(checkpoint))


def test_two_tokens_with_one_id(checkpoint: Path) -> None:
    edit_json(
        checkpoint / "tokenizer.json", lambda c: c["added_tokens"].append(c["added_tokens"][0] | {"content": "x"})
    )
    with pytest.raises(TokenizerError, match="shares its id"):
        open_checkpoint(str(checkpoint))


def test_a_vocabulary_larger_than_the_embedding(checkpoint: Path) -> None:
    edit_json(checkpoint / "tokenizer.json", lambda c: c["model"]["vocab"].update(new=1024))
    with pytest.raises(TokenizerError, match="token id 1024, but the model's vocabulary ends at 1023"):
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


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "{}",
        '{"added_tokens": [{}]}',
        '{"added_tokens": []}',
        "[" * 200_000,
        '{"added_tokens": 7}',
        "\x00\xff",
    ],
)
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


def test_a_tokenizer_without_added_tokens(checkpoint: Path) -> None:
    edit_json(checkpoint / "tokenizer.json", lambda t: t.update(added_tokens=[]))
    with pytest.raises(TokenizerError, match="lacks"):
        open_checkpoint(str(checkpoint))
    edit_json(checkpoint / "tokenizer_config.json", lambda c: c.pop("added_tokens_decoder"))
    with pytest.raises(TokenizerError, match="image_pad"):
        open_checkpoint(str(checkpoint))


def test_a_word_beyond_the_vocabulary(checkpoint: Path) -> None:
    edit_json(checkpoint / "tokenizer.json", lambda t: t["model"]["vocab"].update(zz=2**31))
    with pytest.raises(TokenizerError, match="token id 2147483648"):
        open_checkpoint(str(checkpoint))


def test_a_vocabulary_smaller_than_the_tokenizer(checkpoint: Path) -> None:
    edit_json(checkpoint / "config.json", lambda c: c["text_config"].update(vocab_size=980))
    with pytest.raises(TokenizerError, match="vocabulary ends at 979"):
        open_checkpoint(str(checkpoint))
