"""`edge-export verify` with both references: they agree with each other and with the bundle."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("optimum.exporters.onnx", reason="optimum-onnx is missing: make parity")

from tokenizers import Tokenizer
from typer.testing import CliRunner

from edge_export.cli import app
from edge_export.families.qwen3_vl.reference.model import NumpyReference
from edge_export.families.qwen3_vl.verify.optimum_export import DECODER_MODEL_TYPE, VISION_MODEL_TYPE, trace
from edge_export.families.qwen3_vl.verify.optimum_reference import OptimumReference, open_optimum_reference
from edge_export.families.qwen3_vl.verify.prompts import gate_prompts
from edge_export.verify.gate import run_gate
from edge_runtime.model.manifest import load_manifest
from tests.parity.cases import CASES
from tests.parity.theirs import Transformers

# torch's tracer warns of every shape it looks at.
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def optimum(checkpoint_of: Callable[[str], Path]) -> OptimumReference:
    return open_optimum_reference(checkpoint_of("untied"))


@pytest.fixture(scope="module")
def numpy_reference(checkpoint_of: Callable[[str], Path]) -> NumpyReference:
    return NumpyReference(checkpoint_of("untied"))


def test_both_references_agree(optimum: OptimumReference, numpy_reference: NumpyReference, tiny_bundle: Path) -> None:
    """Two independent ways from a checkpoint to logits."""
    tokenizer = Tokenizer.from_file(str(tiny_bundle / "tokenizer.json"))
    for gate_prompt in gate_prompts(tokenizer, load_manifest(tiny_bundle)):
        prompt = gate_prompt.prompt
        for patches in prompt.media:
            for ours, theirs in zip(numpy_reference.vision(patches), optimum.vision(patches), strict=True):
                np.testing.assert_allclose(ours, theirs, atol=1e-4)
        np.testing.assert_allclose(
            numpy_reference.logits(prompt, [3, 1, 4]), optimum.logits(prompt, [3, 1, 4]), atol=2e-4
        )


def test_tracing_leaves_the_model_as_it_was(theirs_of: Callable[[str], Transformers], tmp_path: Path) -> None:
    """What is swapped for a trace is back afterwards, down to the logits."""
    theirs = theirs_of("tied")
    before = theirs.generate(CASES[1].messages, num_tokens=4)
    trace(theirs.model.model.visual, VISION_MODEL_TYPE, "feature-extraction", tmp_path / "vision.onnx")
    trace(theirs.model, DECODER_MODEL_TYPE, "text-generation", tmp_path / "decoder.onnx")
    after = theirs.generate(CASES[1].messages, num_tokens=4)
    np.testing.assert_array_equal(after.logits, before.logits)


@pytest.mark.parametrize("reference", ["numpy", "optimum"])
def test_command(reference: str, tiny_bundle: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, folder)
    arguments = ["verify", str(folder), "--source", str(tiny_checkpoint), "--reference", reference]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    parity = load_manifest(folder).parity
    assert parity is not None
    assert (parity.reference, parity.passed) == (reference, True)
    assert parity.greedy_tokens_equal == parity.greedy_tokens_compared
    assert parity.max_abs_logit_error <= 1e-3


def test_references_judge_a_quantized_bundle_alike(tiny_bundle_int4: Path, tiny_checkpoint: Path) -> None:
    ours, theirs = (run_gate(tiny_bundle_int4, tiny_checkpoint, name) for name in ("numpy", "optimum"))
    assert ours.passed
    assert theirs.passed
    assert theirs.mean_kl == pytest.approx(ours.mean_kl, rel=1e-3)
    assert theirs.vision_cosine == pytest.approx(ours.vision_cosine, abs=1e-5)
