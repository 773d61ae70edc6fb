"""What is planned for a real size, against what was measured on it (docs/decisions/0031, docs/benchmarks.md)."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from edge_export.checkpoint.json_file import JsonObject
from edge_export.families.qwen3_vl.config import read_architecture
from edge_export.random_checkpoint import config_for
from edge_runtime.devices.memory import DECODING_PROCESS_BYTES, MemoryRequest
from edge_runtime.devices.planner import plan_memory
from edge_runtime.devices.select import ResolvedProfile
from edge_runtime.model.footprint import GRAMMAR_BYTES, footprint
from edge_runtime.model.manifest import Manifest, QuantizationScheme, TensorFormat, load_manifest

MIB = 2**20
MOST_OVER = 1.15
"""A plan may take this many times what is used: the rest would be refused for nothing."""
QWEN_TOKENIZER_BYTES = 100 * MIB
"""Measured apart: the 2B bundle of random weights has a vocabulary of a thousand tokens."""
ROOMY = ResolvedProfile(
    name="roomy",
    threads=2,
    budget_bytes=2**40,
    context_tokens=16_384,
    max_pixels=2_088_960,
    max_chats=1,
    prefill_chunk_tokens=256,
    kv_dtypes=("int8",),
    execution_providers=("cpu",),
)


INT4, INT8 = TensorFormat(weights="int4", block_size=32), TensorFormat(weights="int8", block_size=32)


@pytest.fixture
def manifest(tiny_bundle_int4: Path) -> Manifest:
    """That of the bundle that was measured: a 2B checkpoint, int4 layers, all else int8, flavour edge."""
    return msgspec.structs.replace(
        load_manifest(tiny_bundle_int4),
        architecture=read_architecture(JsonObject(config_for("2b"), "config.json")),
        quantization=QuantizationScheme(decoder_linear=INT4, vision_linear=INT8, lm_head=INT8, embedding=INT8),
        flavour="edge",
    )


@pytest.mark.parametrize("measured_per_patch", [59_213, 58_251, 58_466])  # 1280x704, 1024x1024, 1920x1088
def test_a_vision_run_is_planned_as_it_was_measured(manifest: Manifest, measured_per_patch: int) -> None:
    planned = footprint(manifest).vision_bytes_per_patch
    assert measured_per_patch <= planned <= MOST_OVER * measured_per_patch


@pytest.mark.parametrize(
    ("prompt_tokens", "pixels", "peak_mib"),
    [(2124, 1_048_576, 1841), (3140, 1_920 * 1_088, 2134)],  # a screenshot of 1280x720 and one of 1920x1080
)
def test_the_whole_peak_is_planned_as_it_was_measured(
    manifest: Manifest, prompt_tokens: int, pixels: int, peak_mib: int
) -> None:
    needs = footprint(manifest)
    request = MemoryRequest(context_tokens=prompt_tokens, max_pixels=pixels, max_chats=1, kv_dtype="int8")
    plan = plan_memory(needs, ROOMY, request)
    planned = plan.total_bytes - plan.decoding_bytes - DECODING_PROCESS_BYTES  # that process was not measured with it
    planned -= plan.feature_cache_bytes + plan.session_bytes  # nor that cache, nor sessions
    planned -= manifest.architecture.text.vocab_size * GRAMMAR_BYTES  # nor grammars
    used = peak_mib * MIB + QWEN_TOKENIZER_BYTES
    assert used <= planned <= MOST_OVER * used


def test_mapped_weights_are_the_two_files(manifest: Manifest) -> None:
    files = 1_124_032_512 + 440_414_208  # decoder.onnx.data and vision.onnx.data of the 2B bundle, int4
    assert footprint(manifest).weights_bytes == pytest.approx(files, rel=0.002)
