"""The benchmark of drafts: what it says of a loop is what happened."""

from __future__ import annotations

from pathlib import Path

from benchmarks.agent_transcripts import LOOPS, qwen_tokens
from benchmarks.lookup import contrary, given, measure
from edge_kernels.library import KernelLibrary
from edge_runtime.engine.bundle_runner import BundleRunner
from tests.engine.tiny_engine import engine_of


def test_a_loop_that_is_given_is_said_with_drafts_and_without(
    tiny_bundle_edge: Path, kernel_library: KernelLibrary
) -> None:
    engine = engine_of(tiny_bundle_edge, kernel_library)
    says = [list(range(300, 320)), list(range(320, 330))]
    result = measure(engine, list(given([[1], says[1], says[0] * 3, says[1], says[0] * 3], num_before=10)), repeats=2)
    assert result.num_tokens == 2 * 2 * 59
    assert 60 < result.num_accepted <= result.num_drafted
    assert len(result.plain_ms) == len(result.drafted_ms) == 2
    assert result.tokens_per_run > 1.5


def test_in_the_contrary_loop_nothing_comes_true(tiny_bundle_edge: Path, kernel_library: KernelLibrary) -> None:
    engine = engine_of(tiny_bundle_edge, kernel_library)
    runner = engine._runner
    assert isinstance(runner, BundleRunner)
    result = measure(engine, list(given(contrary(runner, num_turns=2, length=30), num_before=0)), repeats=1)
    assert result.num_drafted > 0
    assert result.num_accepted == 0


def test_the_tokens_of_each_loop_are_those_of_its_turns() -> None:
    for name, (_, turns) in LOOPS.items():
        rows = qwen_tokens(name)
        assert len(rows) == 1 + 2 * len(turns)
        assert all(row[-1] == 151_645 for row in rows[2::2])
        repeated = {turn.answer for turn in turns}
        assert len({tuple(row) for row in rows[2::2]}) == len(repeated)
