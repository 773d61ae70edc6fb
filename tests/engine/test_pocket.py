"""The name `pocket`: exported once to a cache folder, found there afterwards."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from edge_runtime.cli.main import app
from edge_runtime.engine import pocket
from edge_runtime.engine.pocket import bundle_folder, cache_folder, pocket_bundle
from edge_runtime.errors import BundleError
from edge_runtime.model.manifest import load_manifest, save_manifest


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


@pytest.mark.usefixtures("no_kernels")
def test_without_the_export_packages_it_says_what_to_install(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "onnx.py").write_text("raise ImportError('nothing there')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(BundleError, match=r"exporting pocket .* failed: onnx .*cannot be imported.* pip install"):
        pocket_bundle(tiny_checkpoint, tmp_path / "cache")


@pytest.mark.usefixtures("no_kernels")
def test_a_failed_export_says_why(tiny_checkpoint: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_checkpoint, broken)
    (broken / "config.json").write_text("{")
    with pytest.raises(BundleError, match=r"failed: .*config\.json"):
        pocket_bundle(broken, tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").glob("pocket-*") if (path / "manifest.json").exists()]


def test_another_checkpoint_is_another_bundle(
    tiny_checkpoint: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def export(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        shutil.copytree(tiny_bundle, command[4])
        asked.append(command[4])
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(pocket.subprocess, "run", export)
    longer, retrained, other_words = (tmp_path / name for name in ("longer", "retrained", "other_words"))
    for folder in (longer, retrained, other_words):
        shutil.copytree(tiny_checkpoint, folder)
    with (longer / "model.safetensors").open("ab") as file:
        file.write(b" ")
    weights = bytearray((retrained / "model.safetensors").read_bytes())
    weights[-len(weights) // 2 :] = bytes(len(weights[-len(weights) // 2 :]))
    (retrained / "model.safetensors").write_bytes(weights)
    edit = json.loads((other_words / "tokenizer_config.json").read_text()) | {"comment": "another"}
    (other_words / "tokenizer_config.json").write_text(json.dumps(edit))
    for source in (tiny_checkpoint, longer, retrained, other_words, tiny_checkpoint, longer, retrained, other_words):
        pocket_bundle(source, tmp_path / "cache")
    assert len(set(asked)) == len(asked) == 4


def test_a_folder_called_pocket_can_still_be_named() -> None:
    assert bundle_folder("./pocket") == Path("pocket")


def test_the_cache_is_where_the_system_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "edge-runtime"
    monkeypatch.setenv("HOME", "/home/somebody")
    for unsaid in ("", "relative/cache"):  # the specification has such a path ignored
        monkeypatch.setenv("XDG_CACHE_HOME", unsaid)
        assert cache_folder() == Path("/home/somebody/.cache/edge-runtime")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path("/home/somebody/.cache/edge-runtime")


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", classmethod(lambda cls: (_ for _ in ()).throw(RuntimeError("no home"))))
    with pytest.raises(BundleError, match=r"no home folder.*XDG_CACHE_HOME.*edge-export pocket"):
        cache_folder()


@pytest.fixture
def exported(
    tiny_checkpoint: Path, tiny_bundle_int4: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], Path]:
    """Ask for the bundle under `tmp_path`; instead of an export, which is another test's, a finished one is copied."""

    def export(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        shutil.copytree(tiny_bundle_int4, command[4])
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(pocket, "_kernels_run", lambda: False)
    monkeypatch.setattr(pocket.subprocess, "run", export)
    return lambda: pocket_bundle(tiny_checkpoint, tmp_path)


def truncate(bundle: Path) -> None:
    os.truncate(bundle / "decoder.onnx.data", 1000)


def alter(bundle: Path) -> None:
    path = bundle / "decoder.onnx.data"
    state, data = path.stat(), bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def alter_manifest(bundle: Path) -> None:
    manifest = load_manifest(bundle)
    save_manifest(msgspec.structs.replace(manifest, name="another"), bundle)


def lose(bundle: Path) -> None:
    (bundle / "tokenizer.json").unlink()


def lose_manifest(bundle: Path) -> None:
    (bundle / "manifest.json").unlink()


def empty(bundle: Path) -> None:
    for path in bundle.iterdir():
        path.unlink()


@pytest.mark.parametrize("harm", [truncate, alter, alter_manifest, lose, lose_manifest, empty])
def test_a_damaged_export_is_made_again(
    exported: Callable[[], Path],
    tiny_bundle_int4: Path,
    capsys: pytest.CaptureFixture[str],
    harm: Callable[[Path], None],
) -> None:
    bundle = exported()
    capsys.readouterr()
    harm(bundle)
    assert exported() == bundle
    assert "is damaged: " in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == {
        path.name: path.read_bytes() for path in tiny_bundle_int4.iterdir()
    }
    exported()
    assert capsys.readouterr().err == ""
    assert sorted(path.name for path in bundle.parent.iterdir()) == sorted(
        [bundle.name, f"{bundle.name}.sha256", "pocket.lock"]
    )


def test_a_copied_export_without_its_seal_is_good(
    exported: Callable[[], Path], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    bundle = exported()
    (tmp_path / f"{bundle.name}.sha256").unlink()
    request.getfixturevalue("no_processes")
    assert exported() == bundle


def test_what_is_not_ours_stays(exported: Callable[[], Path]) -> None:
    bundle = exported()
    (bundle / "notes.txt").write_text("mine")
    truncate(bundle)
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}
    with pytest.raises(BundleError, match=r"holds notes\.txt; move that away"):
        exported()
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before


def test_a_file_in_its_place_stays(exported: Callable[[], Path]) -> None:
    bundle = exported()
    empty(bundle)
    bundle.rmdir()
    bundle.write_text("mine")
    with pytest.raises(BundleError, match="it is no folder; move that away"):
        exported()
    assert bundle.read_text() == "mine"


def test_a_failed_export_leaves_the_damaged_one(exported: Callable[[], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = exported()
    truncate(bundle)
    failed = subprocess.CompletedProcess([], 2, "", "edge-export: the disk is full")
    monkeypatch.setattr(pocket.subprocess, "run", lambda *arguments, **options: failed)
    with pytest.raises(BundleError, match=r"failed: the disk is full"):
        exported()
    assert (bundle / "manifest.json").exists()


def test_the_rest_of_a_killed_export_goes(exported: Callable[[], Path], tmp_path: Path) -> None:
    bundle = exported()
    shutil.copytree(bundle, tmp_path / f"{bundle.name}.new")
    lose(bundle)
    exported()
    assert not (tmp_path / f"{bundle.name}.new").exists()


def test_a_cache_that_cannot_be_written(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for cache in (tmp_path / "file" / "cache", tmp_path / "file", Path("/proc/nowhere")):
        with pytest.raises(BundleError, match=r"cannot be kept in .*set XDG_CACHE_HOME .*edge-export pocket FOLDER"):
            pocket_bundle(tiny_checkpoint, cache)


ASK_TWO = """
import subprocess, sys
from pathlib import Path
from edge_runtime.engine import pocket
pocket._kernels_run = lambda: False
pocket.pocket_bundle(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def test_two_at_once_make_one(tiny_checkpoint: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", ASK_TWO, str(tiny_checkpoint), str(tmp_path / "cache")]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sum("this happens once" in text for text in said) == 1
    assert len(list((tmp_path / "cache").glob("pocket-*/manifest.json"))) == 1


def test_after_a_killed_one_the_next_goes_on(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """The export, which outlives whoever started it, keeps the lock: the next one waits for it and finds its bundle."""
    source, cache = tmp_path / "source", tmp_path / "cache"
    shutil.copytree(tiny_checkpoint, source)
    command = [sys.executable, "-c", ASK_TWO, str(source), str(cache)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "this happens once" in process.stderr.readline()
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(list(cache.glob("pocket-*/manifest.json"))) == 1


@pytest.mark.usefixtures("no_kernels")
def test_ask_answers_by_name(tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pocket, "checkpoint", lambda: tiny_checkpoint)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    result = CliRunner().invoke(app, ["ask", "pocket", "hi", "--max-tokens", "3", "--quiet"])
    assert result.exit_code == 0
    assert result.stdout.endswith("\n")
    assert "exporting pocket to" in result.stderr
