from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edge_export import __version__
from edge_export.cli import app
from edge_runtime.devices.memory import format_bytes
from edge_runtime.model.manifest import load_manifest

RUN = [sys.executable, "-c", "from edge_export.cli import app; app(prog_name='edge-export')"]


def edge_export(*args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*RUN, *map(str, args)], capture_output=True, text=True, check=False)


def test_source_and_out_need_no_subcommand(tiny_checkpoint: Path, tmp_path: Path) -> None:
    result = edge_export(tiny_checkpoint, tmp_path / "out", "--block-size", 64)
    assert result.returncode == 0, result.stderr
    assert "wrote" in result.stdout
    assert "round-trip error" in result.stdout
    assert load_manifest(tmp_path / "out").quantization.decoder_linear.block_size == 64


def test_options_may_come_first(tiny_checkpoint: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["--weights", "fp32", str(tiny_checkpoint), str(tmp_path / "out")])
    assert result.exit_code == 0
    assert load_manifest(tmp_path / "out").quantization.lm_head.weights == "fp32"


def test_version() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.output) == (0, f"edge-export {__version__}\n")


def test_pocket_is_known_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a folder of that name is at hand, as in a checkout."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pocket").mkdir()
    result = CliRunner().invoke(app, ["pocket", "out", "--no-gate"])
    assert result.exit_code == 0
    manifest = load_manifest(tmp_path / "out")
    assert manifest.name == "pocket"
    assert f"wrote out: pocket, {format_bytes(manifest.size_bytes)}" in result.output
    assert "edge-export verify out --source pocket" in result.output
    source = CliRunner().invoke(app, ["verify", "out", "--source", "pocket"])
    assert source.exit_code == 0, source.output


@pytest.mark.parametrize("command", ["verify", "random-checkpoint", "export"])
def test_every_command_explains_itself(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert command in result.output


def test_help_lists_the_commands() -> None:
    output = CliRunner().invoke(app, ["--help"]).output
    assert all(command in output for command in ("export", "verify", "random-checkpoint"))


def test_random_checkpoint_then_export(tmp_path: Path) -> None:
    runner = CliRunner()
    assert runner.invoke(app, ["random-checkpoint", str(tmp_path / "source")]).exit_code == 0
    assert runner.invoke(app, [str(tmp_path / "source"), str(tmp_path / "out")]).exit_code == 0
    again = runner.invoke(app, [str(tmp_path / "source"), str(tmp_path / "out")])
    assert again.exit_code == 2
    assert "--force" in again.output
    assert runner.invoke(app, [str(tmp_path / "source"), str(tmp_path / "out"), "--force"]).exit_code == 0


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nowhere", "out"], "nowhere is not a folder"),
        (["nowhere", "out"], "or pocket, the model that ships"),
        (["./no/where", "out"], "is not a folder"),
        ([".", "out"], "no config.json"),
        ([".", "out", "--block-size", "48"], "--block-size is 48; choose one of 32, 64, 128"),
        ([".", "out", "--weights", "int2"], "--weights is int2; choose one of int4, int8, fp32"),
        ([".", "out", "--flavour", "fast"], "--flavour is fast; choose one of portable, edge"),
        ([".", "out", "--flavour", "edge", "--weights", "fp32"], "--flavour edge computes with int4 and int8"),
        (["."], "Missing argument"),
        ([".", "out", "--block-size", "x"], "--block-size"),
    ],
)
def test_errors_are_one_message_and_status_2(tmp_path: Path, args: list[str], message: str) -> None:
    result = subprocess.run([*RUN, *args], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert result.returncode == 2
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_hub_id_out_of_reach(tmp_path: Path) -> None:
    unreachable = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "hf")}
    result = subprocess.run(
        [*RUN, "Qwen/Qwen3-VL-2B-Instruct", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        env=os.environ | unreachable,
        check=False,
    )
    assert result.returncode == 2
    assert "give a local folder" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_signal_in_the_middle_leaves_no_bundle(tiny_checkpoint: Path, tmp_path: Path, sent: signal.Signals) -> None:
    """README.md is a pipe that nobody fills: the export stands still in the middle of its work, reading it."""
    source = tmp_path / "source"
    source.mkdir()
    for path in tiny_checkpoint.iterdir():
        (source / path.name).symlink_to(path)
    os.mkfifo(source / "README.md")
    script = (
        "import pathlib, signal; pathlib.Path.is_file = pathlib.Path.exists; "  # a pipe is no file, else
        "signal.signal(signal.SIGINT, signal.default_int_handler); "  # shells start what runs in the background without
    ) + RUN[2]
    out = tmp_path / "out"
    with (
        subprocess.Popen([sys.executable, "-c", script, str(source), str(out)], stderr=subprocess.PIPE) as process,
        (source / "README.md").open("wb"),  # opens once the export reads it: it is in the middle
    ):
        (partial,) = tmp_path.glob(f"out.*.partial-{process.pid}")
        process.send_signal(sent)
        process.wait()
    assert process.returncode != 0
    assert not out.exists()
    assert partial.exists() is (sent == signal.SIGKILL)
    assert not list(tmp_path.rglob("manifest.json"))
