"""Which flavour an export has where none is asked for, and what is said about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from edge_export.checkpoint.checkpoint import open_checkpoint
from edge_export.cli import app
from edge_export.options import ExportOptions, resolve_flavour
from edge_export.pipeline import export_bundle
from edge_kernels.library import KernelLibrary
from edge_runtime.model.manifest import load_manifest
from tests.conftest import NoProgress
from tests.export.conftest import MakeCheckpoint
from tests.export.small_model import edit_json, small_config


@pytest.mark.parametrize(
    ("options", "has_kernels", "flavour", "reason"),
    [
        ({}, True, "edge", "the fast one"),
        ({"weights": "int8"}, True, "edge", "the fast one"),
        ({}, False, "portable", "no kernel library"),
        ({"weights": "fp32"}, True, "portable", "fp32"),
        ({"weights": "fp32", "vision": "int8"}, True, "portable", "fp32"),
        ({"vision": "fp32"}, True, "portable", "fp32"),
        ({"flavour": "portable"}, True, "portable", "asked for"),
        ({"flavour": "edge"}, False, "edge", "asked for"),
    ],
)
def test_the_fast_one_where_nothing_speaks_against_it(
    tiny_checkpoint: Path, options: dict[str, Any], has_kernels: bool, flavour: str, reason: str
) -> None:
    architecture = open_checkpoint(str(tiny_checkpoint)).architecture
    choice = resolve_flavour(ExportOptions(**options), architecture, has_kernels=has_kernels)
    assert choice.flavour == flavour
    assert reason in choice.reason


@pytest.mark.parametrize("sizes", [{"head_dim": 36}, {"head_dim": 264}, {"head_dim": 24, "num_kv_heads": 1}])
def test_a_model_the_kernels_do_not_take_is_portable(tiny_checkpoint: Path, sizes: dict[str, int]) -> None:
    architecture = open_checkpoint(str(tiny_checkpoint)).architecture
    text = msgspec.structs.replace(architecture.text, **sizes)
    choice = resolve_flavour(ExportOptions(), msgspec.structs.replace(architecture, text=text), has_kernels=True)
    assert choice.flavour == "portable"
    assert f"is {sizes['head_dim']}, and edge takes multiples of" in choice.reason


def test_the_export_follows_the_choice(
    checkpoint: Path, make_checkpoint: MakeCheckpoint, tmp_path: Path, kernel_library: KernelLibrary
) -> None:
    def flavour(source: Path, **options: Any) -> str:
        out = tmp_path / "out"
        chosen = ExportOptions(gate=False, force=True, **options)
        manifest = export_bundle(str(source), out, chosen, NoProgress(), kernel_library)
        assert load_manifest(out) == manifest
        return manifest.flavour

    assert flavour(checkpoint) == "edge"
    assert flavour(checkpoint, flavour="portable") == "portable"
    assert flavour(checkpoint, weights="fp32") == "portable"
    odd = make_checkpoint(small_config(), "odd")
    edit_json(
        odd / "config.json", lambda c: c["vision_config"].update(num_heads=c["vision_config"]["hidden_size"] // 4)
    )
    assert flavour(odd) == "portable"


def test_without_the_library_it_is_portable(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_export.pipeline.find_kernels", lambda: None)
    result = CliRunner().invoke(app, [str(checkpoint), str(tmp_path / "out"), "--no-gate"])
    assert result.exit_code == 0
    assert load_manifest(tmp_path / "out").flavour == "portable"
    assert "flavour portable: no kernel library is installed here" in result.stdout


def test_the_last_line_says_which_and_why(checkpoint: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, [str(checkpoint), str(tmp_path / "out"), "--no-gate", "--weights", "fp32"])
    assert result.stdout.splitlines()[-1] == "flavour portable: edge has no fp32 weights"
