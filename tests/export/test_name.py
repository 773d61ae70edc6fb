"""What a bundle's model is called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edge_export.checkpoint.json_file import JsonObject
from edge_export.checkpoint.source import model_name, resolve_source


def name(source: str | Path, folder: Path | None = None, **config: Any) -> str:
    return model_name(str(source), folder or Path(source), JsonObject(config, "config.json"))


def made(folder: Path, card: str | None = None) -> Path:
    folder.mkdir(parents=True)
    if card is not None:
        (folder / "README.md").write_text(card)
    return folder


def test_a_hub_id_and_the_model_that_ships(tmp_path: Path) -> None:
    assert name("Qwen/Qwen3-VL-2B-Instruct", tmp_path) == "Qwen3-VL-2B-Instruct"
    assert name("pocket", resolve_source("pocket")) == "pocket"
    assert name(resolve_source("pocket")) == "pocket"


def test_a_folder_with_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = made(tmp_path / "kiosk-7")
    assert name(folder, _name_or_path="Qwen/Qwen3-VL-2B-Instruct") == "kiosk-7"
    monkeypatch.chdir(folder)
    assert name(".") == "kiosk-7"


@pytest.mark.parametrize("folder", ["weights", "model", "checkpoint-500", "Output", "final", "v1.2", "epoch_3"])
def test_a_folder_whose_name_says_nothing(tmp_path: Path, folder: str) -> None:
    with_card = made(
        tmp_path / "a" / folder, "---\nlicense: mit\nmodel_name: 'ticket-reader'\n---\n# x\nmodel_name: y\n"
    )
    assert name(with_card, _name_or_path="somebody/base") == "ticket-reader"
    without_front = made(tmp_path / "b" / folder, "# x\nmodel_name: y\n")
    assert name(without_front, _name_or_path="somebody/base") == "base"
    assert name(made(tmp_path / "kiosk" / folder), _name_or_path="./output/checkpoint-3") == "kiosk"
    assert name(made(tmp_path / "shop" / "checkpoints" / folder)) == "shop"


def test_the_hubs_own_cache(tmp_path: Path) -> None:
    folder = made(tmp_path / "models--Qwen--Qwen3-VL-4B-Thinking" / "snapshots" / "0a1b2c")
    assert name(folder) == "Qwen3-VL-4B-Thinking"


@pytest.mark.parametrize("odd", [3, ["x"], {"a": 1}, "x" * 1000, "a\x1b[31mb", ""])
def test_odd_values_are_passed_over(tmp_path: Path, odd: Any) -> None:
    assert name(made(tmp_path / "kiosk" / "weights", "---\nmodel_name: \x07\n---\n"), _name_or_path=odd) in {
        "kiosk",
        str(odd),
    }
