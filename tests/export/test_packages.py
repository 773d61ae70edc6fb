"""`edge-export` where the export extra is not installed, or one of its packages is broken."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edge_export.packages import EXPORT_PACKAGES, install_command

PROGRAM = "from edge_export.cli import app; app(prog_name='edge-export')"
COMMANDS = {
    "export": ["{checkpoint}", "out"],
    "verify": ["verify", "{bundle}", "--source", "{checkpoint}"],
    "random-checkpoint": ["random-checkpoint", "out"],
}


def run(arguments: list[str], folder: Path, *hidden: str, **folders: Path) -> subprocess.CompletedProcess[str]:
    """Run edge-export in `folder`; without the packages `hidden`, and with modules of `folder/shadow` before others."""
    hide = (
        f"from importlib.machinery import PathFinder; find = PathFinder.find_spec; hidden = {hidden!r}; "
        "PathFinder.find_spec = lambda name, *more: None if name.partition('.')[0] in hidden else find(name, *more); "
    )
    paths = [str(folder / "shadow"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.run(
        [sys.executable, "-c", hide + PROGRAM, *(argument.format(**folders) for argument in arguments)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_without_the_extra_it_is_one_message_and_a_command(
    tiny_checkpoint: Path, tiny_bundle: Path, tmp_path: Path, command: str
) -> None:
    folders = {"checkpoint": tiny_checkpoint, "bundle": tiny_bundle}
    result = run(COMMANDS[command], tmp_path, "onnx", "onnx_ir", **folders)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("edge-export: onnx, onnx_ir cannot be imported")
    assert line.endswith(install_command("export"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_broken_package_is_named(tiny_checkpoint: Path, tiny_bundle: Path, tmp_path: Path, command: str) -> None:
    (tmp_path / "shadow").mkdir()
    (tmp_path / "shadow" / "onnx.py").write_text("raise AttributeError('_ARRAY_API')")
    result = run(COMMANDS[command], tmp_path, checkpoint=tiny_checkpoint, bundle=tiny_bundle)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("edge-export: onnx is installed, but cannot be imported")
    assert "AttributeError: _ARRAY_API" in line
    assert "--force-reinstall" in line


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["verify", "--help"], ["export", "--help"]])
def test_help_needs_no_extra(tmp_path: Path, arguments: list[str]) -> None:
    result = run(arguments, tmp_path, *EXPORT_PACKAGES)
    assert result.returncode == 0
    assert result.stdout


def test_a_hub_id_without_the_hubs_package(tmp_path: Path) -> None:
    result = run(["somebody/something", "out"], tmp_path, "huggingface_hub")
    assert result.returncode == 2
    line = result.stderr.splitlines()[-1]  # the first ones are the progress bars'
    assert line.startswith("edge-export: huggingface_hub cannot be imported")


def test_the_command_names_packages_and_not_ours() -> None:
    """An index may have a stranger's package of our name; what the extra is made of, it has."""
    command = install_command("export")
    assert command.startswith(sys.executable)
    for name in ("onnx>=", "onnx-ir>=", "ml-dtypes>=", "safetensors>=", "huggingface-hub>="):
        assert name in command
    assert "edge-runtime" not in command
