"""Logits of an int4 LM head: the likeliest are as good as an int8 head's, the others are left alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_export.options import ExportOptions
from edge_export.pipeline import export_bundle
from edge_kernels.library import KernelLibrary
from edge_runtime.engine.bundle_runner import BundleRunner, RunnerSettings
from edge_runtime.engine.model_runner import Step
from edge_runtime.engine.request import GenerationRequest
from edge_runtime.engine.sampling import NUM_CANDIDATES, rescore
from edge_runtime.model.bundle import open_bundle
from edge_runtime.model.cancellation import CancelToken
from edge_runtime.model.conversation import Message, TextPart
from edge_runtime.model.graph import GraphSettings
from edge_runtime.model.manifest import Flavour, WeightFormat
from edge_runtime.vision.image import ImageLimits
from tests.conftest import NoProgress

PROMPT = GenerationRequest("r", (Message("user", (TextPart("say something about this and that"),)),))


def exported(source: Path, out: Path, flavour: Flavour, head: WeightFormat, kernels: KernelLibrary) -> Path:
    options = ExportOptions(flavour=flavour, lm_head=head, gate=False)
    export_bundle(str(source), out / head, options, NoProgress(), kernels)
    return out / head


def logits_after_each_token(
    bundle: Path, flavour: Flavour, kernels: KernelLibrary, num_candidates: int | None = 0
) -> NDArray[np.float32]:
    """[prompt tokens, V], the prompt fed token by token; None: not scored again."""
    graphs = GraphSettings(num_threads=1, kernels=kernels if flavour == "edge" else None)
    runner = BundleRunner(open_bundle(bundle), RunnerSettings(256, 256, None, graphs, ImageLimits(), "fp32"))
    prompt, rows = runner.prepare(PROMPT), []
    lease = runner.kv_cache.lease(len(prompt.input_ids))
    assert lease is not None
    for token in prompt.input_ids:
        (logits,) = runner.forward([Step(prompt, np.array([token]), lease, 1, CancelToken())])
        assert logits is not None
        if num_candidates is not None and logits.hidden is not None:
            rescore(logits.rows[0], logits.hidden[0], num_candidates, runner.score)
        rows.append(logits.rows[0])
    return np.stack(rows)


@pytest.mark.parametrize("flavour", ["edge", "portable"])
def test_the_likeliest_tokens_have_the_scores_of_an_int8_head(
    tiny_checkpoint: Path,
    tmp_path: Path,
    kernel_library: KernelLibrary,
    flavour: Flavour,
) -> None:
    bundles = {head: exported(tiny_checkpoint, tmp_path, flavour, head, kernel_library) for head in ("int4", "int8")}
    int8 = logits_after_each_token(bundles["int8"], flavour, kernel_library)
    rescored = logits_after_each_token(bundles["int4"], flavour, kernel_library)
    more = logits_after_each_token(bundles["int4"], flavour, kernel_library, num_candidates=200)
    int4 = logits_after_each_token(bundles["int4"], flavour, kernel_library, num_candidates=None)

    changed = rescored != int4
    assert (changed.sum(axis=1) > 0.9 * NUM_CANDIDATES).all()  # a score may be the same by chance
    assert (changed.sum(axis=1) <= NUM_CANDIDATES).all()
    changed_more = more != int4
    assert (changed_more.sum(axis=1) > 0.9 * 200).all()  # as many as a request draws from
    assert (changed_more.sum(axis=1) <= 200).all()
    off = {name: np.abs(logits - int8)[changed] for name, logits in (("int4", int4), ("rescored", rescored))}
    assert off["rescored"].mean() < 0.5 * off["int4"].mean()  # an int8 head rounds its activations, rescoring does not
    assert (int4.argmax(axis=1) != int8.argmax(axis=1)).any()  # else the next line would say nothing
    assert (rescored.argmax(axis=1) == int8.argmax(axis=1)).mean() > (int4.argmax(axis=1) == int8.argmax(axis=1)).mean()


def test_fp32_and_int8_heads_are_left_alone(tiny_bundle_edge: Path, kernel_library: KernelLibrary) -> None:
    """Their graphs do not say what the head saw."""
    runner = BundleRunner(
        open_bundle(tiny_bundle_edge),
        RunnerSettings(64, 64, None, GraphSettings(num_threads=1, kernels=kernel_library), ImageLimits(), "int8"),
    )
    assert "hidden" not in runner._decoder._binding._graph.outputs  # type: ignore[attr-defined]


def test_what_is_masked_is_not_scored_again() -> None:
    """A grammar masks before: few tokens are left, and those that it forbids stay forbidden."""
    rng = np.random.default_rng(0)
    logits = np.full(1000, -np.inf, dtype=np.float32)
    allowed = rng.choice(1000, 10, replace=False)
    logits[allowed] = rng.normal(size=10)
    asked: list[int] = []

    def score(ids: NDArray[np.int64], hidden: NDArray[np.float32]) -> NDArray[np.float32]:
        asked.extend(ids.tolist())
        return np.full(len(ids), hidden.sum())

    rescore(logits, np.ones(4, dtype=np.float32), 0, score)
    assert sorted(asked) == sorted(allowed.tolist())
    assert (logits[allowed] == 4).all()
    assert np.isneginf(np.delete(logits, allowed)).all()
