"""Tokenizers and templates that abort, hang or say nothing end the export by name, not the process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_export.checkpoint.checkpoint import open_checkpoint
from edge_export.errors import TokenizerError
from edge_export.word_trial import try_words
from tests.export.small_model import edit_json

Edit = Callable[[dict[str, Any]], Any]
SPLIT = {"type": "Split", "behavior": "Isolated", "invert": False}


def post_processor(ids: list[int], name: str = "q") -> dict[str, Any]:
    single = [{"SpecialToken": {"id": "q", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    pair = [*single, {"Sequence": {"id": "B", "type_id": 0}}]
    special = {name: {"id": name, "ids": ids, "tokens": [name] * len(ids)}}
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special}


BAD_TOKENIZERS: dict[str, Edit] = {
    "aborts": lambda t: t.update(normalizer={"type": "Precompiled", "precompiled_charsmap": "//////////8="}),
    "panics": lambda t: t["model"].update(continuing_subword_prefix="##########"),
    "grows": lambda t: t.update(
        normalizer={
            "type": "Sequence",
            "normalizers": [{"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 1000}] * 5,
        }
    ),
    "bytes of bytes": lambda t: t["pre_tokenizer"].update(pretokenizers=[t["decoder"]] * 12),
    "nested bytes": lambda t: t.update(
        pre_tokenizer={"type": "Sequence", "pretokenizers": [{"type": "Sequence", "pretokenizers": [t["decoder"]] * 2}]}
    ),
    "backtracks": lambda t: t["pre_tokenizer"]["pretokenizers"].insert(0, {**SPLIT, "pattern": {"Regex": "(a+)+$"}}),
    "long pattern": lambda t: t["pre_tokenizer"]["pretokenizers"].insert(
        0, {**SPLIT, "pattern": {"Regex": "a|" * 20_000}}
    ),
    "by lot": lambda t: t["model"].update(dropout=0.5),
    "no such token": lambda t: t.update(post_processor=post_processor([1], "other")),
    "two ids": lambda t: t.update(post_processor=post_processor([1, 2])),
    "other decoder": lambda t: t.update(decoder={"type": "WordPiece", "prefix": "##", "cleanup": True}),
    "not a normalizer": lambda t: t.update(normalizer={"type": "Nope"}),
}


@pytest.mark.parametrize("name", BAD_TOKENIZERS)
def test_a_tokenizer_that_cannot_be_trusted_is_refused(checkpoint: Path, name: str) -> None:
    edit_json(checkpoint / "tokenizer.json", BAD_TOKENIZERS[name])
    with pytest.raises(TokenizerError, match=r"tokenizer\.json cannot be used: "):
        try_words(open_checkpoint(str(checkpoint)))


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for m in messages %}", "is not a chat template"),
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "steps"),
        ("{{ 'x' * 10**12 }}{{ messages[0].content }}", "far more text"),
        ("hello", "does not print what a user says"),
        ("{{ messages[0].text }}", "does not print what a user says"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused(checkpoint: Path, template: str, reason: str) -> None:
    (checkpoint / "chat_template.jinja").write_text(template)
    with pytest.raises(TokenizerError, match=rf"chat_template\.jinja cannot be used: .*{reason}"):
        try_words(open_checkpoint(str(checkpoint)))


def test_a_process_that_is_killed_is_an_error_that_says_so(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_checkpoint(str(checkpoint))
    program = checkpoint / "python"
    program.write_text("#!/bin/sh\necho tokenizer.json\nkill -ABRT $$\n")
    program.chmod(0o700)
    monkeypatch.setattr("edge_export.word_trial.sys.executable", str(program))
    with pytest.raises(TokenizerError, match=r"tokenizer\.json cannot be used: .* ended by SIGABRT"):
        try_words(opened)
    program.write_text("#!/bin/sh\necho chat_template.jinja\nexec sleep 600\n")
    monkeypatch.setattr("edge_export.word_trial.TIMEOUT_S", 0.5)
    with pytest.raises(TokenizerError, match=r"chat_template\.jinja cannot be used: it does not end"):
        try_words(opened)


@pytest.mark.parametrize(
    "template", [None, "{% for m in messages %}{{ m.content ~ '' }}{% endfor %}", "{{ messages[0].content[0].text }}"]
)
def test_a_sound_checkpoint_passes_and_a_text_models_template_is_said(checkpoint: Path, template: str | None) -> None:
    if template is not None:
        (checkpoint / "chat_template.jinja").write_text(template)
    said: list[str] = []
    try_words(open_checkpoint(str(checkpoint)), said.append)
    assert [sentence.split(":")[0] for sentence in said] == ["the chat template has no place for images"] * bool(
        template
    )
