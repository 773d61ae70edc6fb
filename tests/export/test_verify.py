"""The parity gate passes what is right, fails what is wrong, and says why it cannot judge."""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from typer.testing import CliRunner

from edge_export.cli import app
from edge_export.errors import OptionError, SourceError
from edge_export.families.qwen3_vl.verify import optimum_reference
from edge_export.families.qwen3_vl.verify.bundle_model import BundleModel
from edge_export.random_checkpoint import config_for, write_random_checkpoint
from edge_export.verify import command, memory
from edge_export.verify.gate import PromptParity, run_gate, summarize
from edge_export.verify.limits import EXACT, MAX_INT4_KL, limits_for
from edge_runtime.errors import BundleError
from edge_runtime.model.manifest import DECODER_WEIGHTS, MANIFEST_NAME, VISION_WEIGHTS, load_manifest, save_manifest


def test_fp32_is_exact(tiny_bundle: Path, tiny_checkpoint: Path) -> None:
    seen: list[PromptParity] = []
    report = run_gate(tiny_bundle, tiny_checkpoint, "numpy", seen.append)
    assert report.passed
    assert report.max_abs_logit_error <= 1e-3
    assert report.greedy_tokens_equal == report.greedy_tokens_compared == 24 * len(seen)
    assert report.mean_kl_to_rounded is None
    assert [result.name for result in seen] == ["text", "wide image", "two images", "video"]
    assert seen[0].vision_cosine is None


def test_int4_is_close_and_its_graphs_are_right(tiny_bundle_int4: Path, tiny_checkpoint: Path) -> None:
    report = run_gate(tiny_bundle_int4, tiny_checkpoint, "numpy")
    assert report.passed
    assert report.max_abs_logit_error > 1e-3  # or the test would compare a thing with itself
    assert report.mean_kl_to_rounded is not None
    assert report.mean_kl_to_rounded < report.mean_kl / 10


@pytest.mark.parametrize("bundle", ["tiny_bundle", "tiny_bundle_int4"])
def test_a_graph_without_deepstack_fails(
    bundle: str, tiny_checkpoint: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commonest mistake of other runtimes, planted behind the vision graph."""
    vision = BundleModel.vision

    def without_deepstack(model: BundleModel, patches):
        image_embeds, deepstack = vision(model, patches)
        return image_embeds, np.zeros_like(deepstack)

    monkeypatch.setattr(BundleModel, "vision", without_deepstack)
    folder = request.getfixturevalue(bundle)
    report = run_gate(folder, tiny_checkpoint, "numpy")
    failures = limits_for(load_manifest(folder)).failures(report)
    assert not report.passed
    assert any("vision cosine" in failure for failure in failures)
    assert any("KL" in failure for failure in failures)


@pytest.fixture
def damaged_bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A bundle with one value in a hundred of the decoder's weights set to zero."""
    folder = tmp_path / "damaged"
    shutil.copytree(tiny_bundle, folder)
    data = folder / DECODER_WEIGHTS
    values = np.fromfile(data, np.float32)
    values[::100] = 0
    values.tofile(data)
    return folder


def test_command_fails_a_damaged_bundle_and_says_so_in_the_manifest(
    damaged_bundle: Path, tiny_checkpoint: Path
) -> None:
    done = CliRunner().invoke(app, ["verify", str(damaged_bundle), "--source", str(tiny_checkpoint)])
    assert done.exit_code == 1, done.output
    assert "greedy tokens agree" in done.output
    parity = load_manifest(damaged_bundle).parity
    assert parity is not None
    assert not parity.passed


def test_command_writes_what_it_measured(tiny_bundle: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, folder)
    save_manifest(replace(load_manifest(folder), parity=None), folder)
    done = CliRunner().invoke(app, ["verify", str(folder), "--source", str(tiny_checkpoint)])
    assert done.exit_code == 0, done.output
    assert "passed" in done.output
    parity = load_manifest(folder).parity
    assert parity is not None
    assert parity.passed
    assert parity.num_prompts == 4


def test_figures_that_are_no_numbers_are_written_as_the_worst(
    tiny_bundle: Path, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """JSON has no NaN: a manifest with one in it could not be read again."""
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    nan = float("nan")
    odd = PromptParity("x", nan, float("inf"), nan, nan, 24, 24, nan)
    monkeypatch.setattr(command, "run_gate", lambda *_: summarize([odd], "numpy", EXACT))
    assert CliRunner().invoke(app, ["verify", str(folder), "--source", str(tiny_checkpoint)]).exit_code == 1
    parity = load_manifest(folder).parity
    assert parity is not None
    assert not parity.passed
    assert (parity.vision_cosine, parity.mean_kl, parity.max_abs_logit_error) == (-1, 1e300, 1e300)


def test_a_result_that_cannot_be_written_is_said(
    tiny_bundle: Path, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    before = (folder / MANIFEST_NAME).read_bytes()
    good = PromptParity("x", 1.0, 0.0, 0.0, 0.0, 24, 24, None)
    monkeypatch.setattr(command, "run_gate", lambda *_: summarize([good], "numpy", EXACT))

    def no_room(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_room)
    done = CliRunner().invoke(app, ["verify", str(folder), "--source", str(tiny_checkpoint)])
    assert done.exit_code == 2
    assert "cannot be written" in done.output
    assert (folder / MANIFEST_NAME).read_bytes() == before
    assert not list(folder.glob("*.partial"))


def test_another_checkpoint_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    write_random_checkpoint(tmp_path / "other", config_for("tiny"), seed=99)
    with pytest.raises(SourceError, match="not the checkpoint this bundle was made from"):
        run_gate(tiny_bundle, tmp_path / "other", "numpy")
    done = CliRunner().invoke(app, ["verify", str(tiny_bundle), "--source", str(tmp_path / "other")])
    assert done.exit_code == 2


def test_an_unknown_reference_is_refused(tiny_bundle: Path, tiny_checkpoint: Path) -> None:
    with pytest.raises(OptionError, match="choose numpy or optimum"):
        run_gate(tiny_bundle, tiny_checkpoint, "torch")


def test_missing_optimum_says_what_to_install(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimum_reference, "find_spec", lambda _: None)
    with pytest.raises(OptionError, match=r"torch, transformers, optimum.*edge-runtime\[verify\]: .*pip install"):
        optimum_reference.open_optimum_reference(tiny_checkpoint)


def test_a_reference_too_large_for_memory_is_refused(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 1000)
    with pytest.raises(OptionError, match="use --reference numpy"):
        memory.require_for_optimum(tiny_checkpoint)


def test_limits_follow_the_coarsest_storage(tiny_bundle: Path, tiny_bundle_int4: Path) -> None:
    int4 = load_manifest(tiny_bundle_int4)
    int8 = replace(int4, quantization=replace(int4.quantization, decoder_linear=int4.quantization.lm_head))
    assert limits_for(load_manifest(tiny_bundle)) is EXACT
    assert limits_for(int4).max_mean_kl == MAX_INT4_KL
    assert limits_for(int8).max_mean_kl < limits_for(int4).max_mean_kl
    assert limits_for(int8).max_rounded_kl == limits_for(int4).max_rounded_kl


@pytest.mark.parametrize("field", ["vision_cosine", "max_abs_logit_error", "mean_kl", "mean_kl_to_rounded"])
@pytest.mark.parametrize("place", [0, 1])
def test_nan_never_passes(field: str, place: int, tiny_bundle: Path) -> None:
    good = PromptParity("x", 1.0, 0.0, 0.0, 0.0, 24, 24, 0.0)
    results = [good, good]
    assert summarize(results, "numpy", limits_for(load_manifest(tiny_bundle))).passed
    results[place] = dataclasses.replace(good, **{field: float("nan")})
    assert not summarize(results, "numpy", limits_for(load_manifest(tiny_bundle))).passed


def test_a_bundle_cut_short_is_refused(tiny_bundle: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, folder)
    data = folder / VISION_WEIGHTS
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(BundleError, match=r"vision.onnx.data has \d+ bytes, the manifest says"):
        run_gate(folder, tiny_checkpoint, "numpy")
    data.unlink()
    with pytest.raises(BundleError, match=r"vision.onnx.data is missing"):
        run_gate(folder, tiny_checkpoint, "numpy")
