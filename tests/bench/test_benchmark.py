"""A whole benchmark on a tiny bundle: every row is there, and says what it was made of. Never how fast it must be."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from edge_kernels.library import KernelError, KernelLibrary
from edge_runtime.bench import benchmark, peaks
from edge_runtime.bench.benchmark import BenchmarkReport, run_benchmark
from edge_runtime.bench.questions import (
    DECODE_TOKENS,
    ImageQuestion,
    TextQuestion,
    Workload,
    digits,
    parse_screens,
    screenshot,
)
from edge_runtime.cli.main import app
from edge_runtime.devices.memory import MemoryRequest
from edge_runtime.devices.probe import probe_machine
from edge_runtime.devices.select import select_profile
from edge_runtime.engine.load import plan_bundle
from edge_runtime.errors import BadParameter
from edge_runtime.model.conversation import ImagePart, TextPart
from edge_runtime.model.manifest import load_manifest
from edge_runtime.model.tokenizer import Tokenizer

SMALL = Workload(
    repeats=2,
    texts=(TextQuestion(40), TextQuestion(60)),
    decoded_after=frozenset({60}),
    images=(ImageQuestion(96, 64),),
)
NO_SHARES = "shares of the machine's peaks: no library"


def _missing() -> NoReturn:
    raise KernelError("no library")


@pytest.fixture(autouse=True)
def _small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peaks, "BUFFER_BYTES", 1 << 20)
    monkeypatch.setattr(peaks, "REPETITION_S", 1e-4)
    monkeypatch.setattr(benchmark, "KernelLibrary", _missing)


@pytest.fixture
def report(tiny_bundle: Path) -> Callable[..., BenchmarkReport]:
    def run(context_tokens: int) -> BenchmarkReport:
        profile = replace(select_profile("auto", probe_machine()), threads=1)
        bundle, plan = plan_bundle(tiny_bundle, profile, MemoryRequest(context_tokens=context_tokens, max_chats=1))
        return run_benchmark(bundle, profile, plan, SMALL, lambda _: None)

    return run


def test_every_question_has_its_rows(report: Callable[..., BenchmarkReport]) -> None:
    result = report(1024)
    rows = {row.name: row for row in result.measurements}
    assert list(rows) == [
        "load",
        "prefill of 40 tokens",
        "prefill of 60 tokens",
        "decode at 60 tokens",
        "vision 96x64",
        "first token, 96x64 + question",
        "peak memory",
    ]
    assert result.not_run == (NO_SHARES,)
    for row in result.measurements:
        assert row.value > 0
        assert len(row.samples) == (1 if row.name == "peak memory" else SMALL.repeats)
        assert row.value == pytest.approx(np.median(row.samples))


def test_shares_are_of_the_measured_peaks(
    report: Callable[..., BenchmarkReport], kernel_library: KernelLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "KernelLibrary", lambda: kernel_library)
    result = report(1024)
    assert result.peaks is not None
    assert result.peaks.isa == kernel_library.chosen().name
    shares = {row.name: (row.of_peak, row.peak) for row in result.measurements if row.of_peak is not None}
    assert {name: peak for name, (_, peak) in shares.items()} == {
        "prefill of 40 tokens": "int8",
        "prefill of 60 tokens": "int8",
        "decode at 60 tokens": "read",
        "vision 96x64": "int8",
    }
    assert all(share is not None and share > 0 for share, _ in shares.values())
    assert min(result.peaks.read_bytes_per_s, result.peaks.int8_ops_per_s) > 0


def test_without_kernels_there_are_no_shares_and_it_says_why(report: Callable[..., BenchmarkReport]) -> None:
    result = report(1024)
    assert result.peaks is None
    assert {row.of_peak for row in result.measurements} == {None}
    assert result.not_run == (NO_SHARES,)


def test_what_does_not_fit_the_context_is_said(report: Callable[..., BenchmarkReport]) -> None:
    result = report(40 + DECODE_TOKENS + 18)  # the template takes the 18
    image, prompt, shares = sorted(result.not_run)
    assert prompt.startswith("prompt of 60 tokens: ")
    assert "the context" in prompt
    assert image.startswith("image 96x64: the memory plan has room for ")
    assert shares == NO_SHARES
    names = [row.name for row in result.measurements]
    assert names == ["load", "prefill of 40 tokens", "peak memory"]


def test_answers_do_not_end_early(tiny_bundle: Path) -> None:
    """Even of a model for which every token is an end token."""
    profile = replace(select_profile("auto", probe_machine()), threads=1)
    bundle, plan = plan_bundle(tiny_bundle, profile, MemoryRequest(context_tokens=1024, max_chats=1))
    every_token = tuple(range(bundle.manifest.architecture.text.vocab_size))
    special = msgspec.structs.replace(bundle.manifest.special_tokens, eos=every_token)
    ending = replace(bundle, manifest=msgspec.structs.replace(bundle.manifest, special_tokens=special))
    result = run_benchmark(ending, profile, plan, SMALL, lambda _: None)
    assert any(row.name == "decode at 60 tokens" and row.value > 0 for row in result.measurements)


def test_command_prints_a_table_or_json(
    tiny_bundle: Path, kernel_library: KernelLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "edge_runtime.bench.questions.Workload", lambda repeats, **chosen: replace(SMALL, repeats=repeats, **chosen)
    )
    monkeypatch.setattr(benchmark, "KernelLibrary", lambda: kernel_library)
    table = CliRunner().invoke(app, ["bench", str(tiny_bundle), "--repeats", "1"])
    assert table.exit_code == 0, table.output
    assert "decode at 60 tokens" in table.stdout
    assert "this machine on" in table.stdout
    (memory,) = (line for line in table.stdout.splitlines() if "peak memory" in line)
    assert memory.split()[-1] in {"MiB", "GiB"}  # as the plan, inspect and the export have it
    answer = CliRunner().invoke(app, ["bench", str(tiny_bundle), "--repeats", "1", "--json"])
    parsed = json.loads(answer.stdout)
    assert parsed["flavour"] == "portable"
    assert len(parsed["measurements"]) == 7
    chosen = CliRunner().invoke(app, ["bench", str(tiny_bundle), "--repeats", "1", "--screens", "128x64,64x64"])
    assert "vision 128x64" in chosen.stdout
    assert "vision 64x64" in chosen.stdout
    assert "vision 96x64" not in chosen.stdout


def test_an_image_that_the_plan_would_shrink_is_not_run(tiny_bundle: Path) -> None:
    profile = replace(select_profile("auto", probe_machine()), threads=1)
    bundle, plan = plan_bundle(tiny_bundle, profile, MemoryRequest(context_tokens=1024, max_chats=1))
    result = run_benchmark(bundle, profile, replace(plan, max_pixels=4096), SMALL, lambda _: None)
    assert "image 96x64: the memory plan has room for 4,096 pixels only" in result.not_run
    assert not any("96x64" in row.name for row in result.measurements)


def test_an_image_that_the_bundle_would_shrink_is_not_run(tiny_bundle: Path) -> None:
    profile = replace(select_profile("auto", probe_machine()), threads=1)
    bundle, plan = plan_bundle(tiny_bundle, profile, MemoryRequest(context_tokens=1024, max_chats=1))
    limits = msgspec.structs.replace(bundle.manifest.image_processor, min_pixels=1024, max_pixels=4096)
    small = replace(bundle, manifest=msgspec.structs.replace(bundle.manifest, image_processor=limits))
    result = run_benchmark(small, profile, plan, SMALL, lambda _: None)
    assert "image 96x64: this bundle takes 4,096 pixels at most" in result.not_run
    assert not any("96x64" in row.name for row in result.measurements)


def test_a_question_knows_what_the_model_would_be_given(tiny_bundle: Path) -> None:
    manifest = load_manifest(tiny_bundle)
    assert ImageQuestion(3840, 2160).pixels(manifest) == 3840 * 2176
    assert ImageQuestion(96, 64).pixels(manifest) >= manifest.image_processor.min_pixels


def test_screens_are_named_by_their_sizes() -> None:
    assert parse_screens("64x32, 3840x2160") == (ImageQuestion(64, 32), ImageQuestion(3840, 2160))
    for wrong in ("", "4k", "64x32x3", "-64x32", "64x", "1x1"):
        with pytest.raises(BadParameter, match="WIDTHxHEIGHT"):
            parse_screens(wrong)


def test_the_best_repetition_counts(kernel_library: KernelLibrary) -> None:
    found = peaks.measure_peaks(kernel_library, num_threads=2, repeats=3)
    assert (found.num_threads, found.isa) == (2, kernel_library.chosen().name)
    assert found.read_bytes_per_s > 0
    assert found.int8_ops_per_s > 0


def test_command_refuses_what_is_no_bundle(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["bench", str(tmp_path)])
    assert result.exit_code == 2
    assert "error:" in result.stderr


@pytest.mark.parametrize("count", [1, 20, 128])
def test_digits_are_one_token_each(count: int, tiny_bundle: Path) -> None:
    tokenizer = Tokenizer(tiny_bundle / "tokenizer.json")
    assert len(tokenizer.encode(digits(count, seed=3))) == count


def test_no_two_questions_are_alike() -> None:
    assert digits(40, 1) != digits(40, 2)
    assert not np.array_equal(screenshot(64, 48, 1), screenshot(64, 48, 2))
    np.testing.assert_array_equal(screenshot(64, 48, 1), screenshot(64, 48, 1))
    image, text = ImageQuestion(64, 48).messages(1)[0].content
    assert isinstance(image, ImagePart)
    assert isinstance(text, TextPart)
    assert image.data.shape == (48, 64, 3)  # type: ignore[union-attr]
