"""The runtime, end to end on fp32 bundles, says what transformers says: ids, positions, tokens, logits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edge_export.options import ExportOptions
from edge_export.pipeline import export_bundle
from tests.conftest import NoProgress
from tests.parity.cases import CASES, Case
from tests.parity.ours import Runtime
from tests.parity.theirs import Transformers
from tests.parity.variants import rewrite_config_as_transformers_5, write_variant

pytestmark = pytest.mark.parity

NUM_TOKENS = 64
LOGIT_TOLERANCE = 1e-3


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.name} / {case.variant}")
def test_runtime_equals_transformers(
    case: Case,
    theirs_of: Callable[[str], Transformers],
    ours_of: Callable[[str], Runtime],
    parity_row: Callable[..., None],
) -> None:
    expected = theirs_of(case.variant).generate(case.messages, NUM_TOKENS)
    runtime = ours_of(case.variant)
    prompt = runtime.prepare(case.messages)
    token_ids, logits = runtime.generate(case.messages, NUM_TOKENS)

    ids_equal = prompt.input_ids.tolist() == expected.input_ids
    positions_equal = (
        np.array_equal(prompt.position_ids(0, prompt.num_prompt), expected.position_ids)
        and prompt.rope_delta == expected.rope_delta
    )
    greedy_equal = token_ids == expected.token_ids
    error = float(np.abs(logits - expected.logits).max()) if logits.shape == expected.logits.shape else float("nan")
    parity_row(
        case.name, case.variant, len(expected.input_ids), ids_equal, positions_equal, greedy_equal, f"{error:.1e}"
    )
    assert ids_equal
    assert positions_equal
    assert greedy_equal
    assert error <= LOGIT_TOLERANCE


def test_greedy_answers_are_worth_comparing(theirs_of: Callable[[str], Transformers]) -> None:
    """Random models that said one token for ever would make the comparison above empty."""
    generation = theirs_of("tied").generate(CASES[1].messages, NUM_TOKENS)
    best_two = np.sort(generation.logits, axis=-1)[:, -2:]
    assert len(set(generation.token_ids)) >= NUM_TOKENS // 8
    assert (best_two[:, 1] - best_two[:, 0]).min() > LOGIT_TOLERANCE


def test_a_config_of_transformers_5_gives_the_same_bundle(tmp_path: Path) -> None:
    """`rope_parameters` instead of `rope_scaling` and `rope_theta` changes no byte of the graphs."""
    for name in ("old", "new"):
        write_variant("tied", tmp_path / name)
    rewrite_config_as_transformers_5(tmp_path / "new")
    old, new = (
        export_bundle(str(tmp_path / name), tmp_path / f"{name}.bundle", ExportOptions(weights="fp32"), NoProgress())
        for name in ("old", "new")
    )
    assert new.architecture == old.architecture
    assert new.files == old.files
