"""The name `pocket`: exported once to a cache folder, found there afterwards."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from edge_runtime.cli import pocket
from edge_runtime.cli.main import app
from edge_runtime.cli.pocket import bundle_folder, cache_folder, pocket_bundle
from edge_runtime.errors import BundleError
from edge_runtime.model.manifest import load_manifest


@pytest.fixture
def no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pocket, "_kernels_run", lambda: False)


@pytest.fixture
def no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError(f"started {arguments}")

    monkeypatch.setattr(pocket.subprocess, "run", refuse)


@pytest.mark.usefixtures("no_kernels")
def test_first_use_exports_and_the_second_finds_it(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    bundle = pocket_bundle(tiny_checkpoint, tmp_path)
    manifest = load_manifest(bundle)
    assert bundle.parent == tmp_path
    assert (manifest.flavour, manifest.quantization.decoder_linear.weights) == ("portable", "int4")
    said = capsys.readouterr()
    assert (said.out, "this happens once" in said.err) == ("", True)

    request.getfixturevalue("no_processes")
    assert pocket_bundle(tiny_checkpoint, tmp_path) == bundle
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("no_kernels", "no_processes")
def test_without_the_export_packages_it_says_what_to_install(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pocket, "find_spec", lambda name: None if name.startswith("onnx") else object())
    with pytest.raises(BundleError, match=r"onnx, onnx_ir cannot be imported; pip install 'edge-runtime\[export\]'"):
        pocket_bundle(tiny_checkpoint, tmp_path)


@pytest.mark.usefixtures("no_kernels")
def test_a_failed_export_says_why(tiny_checkpoint: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_checkpoint, broken)
    (broken / "config.json").write_text("{")
    with pytest.raises(BundleError, match=r"failed: edge-export: .*config\.json"):
        pocket_bundle(broken, tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").glob("pocket-*") if (path / "manifest.json").exists()]


def test_other_weights_are_another_bundle(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def export(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        out = Path(command[4])
        out.mkdir(parents=True)
        (out / "manifest.json").write_text("{}")
        asked.append(out.name)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(pocket.subprocess, "run", export)
    other = tmp_path / "other"
    shutil.copytree(tiny_checkpoint, other)
    with (other / "model.safetensors").open("ab") as file:
        file.write(b" ")
    for source in (tiny_checkpoint, other, tiny_checkpoint):
        pocket_bundle(source, tmp_path / "cache")
    assert len(set(asked)) == len(asked) == 2


def test_a_folder_called_pocket_can_still_be_named() -> None:
    assert bundle_folder("./pocket") == Path("pocket")


def test_the_cache_is_where_the_system_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "edge-runtime"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "edge-runtime"


@pytest.mark.usefixtures("no_kernels")
def test_ask_answers_by_name(tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pocket, "checkpoint", lambda: tiny_checkpoint)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    result = CliRunner().invoke(app, ["ask", "pocket", "hi", "--max-tokens", "3", "--quiet"])
    assert result.exit_code == 0
    assert result.stdout.endswith("\n")
    assert "exporting pocket to" in result.stderr
