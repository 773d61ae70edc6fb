"""Work counted from a manifest, against sums done another way."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_export.checkpoint.weights import open_weights
from edge_runtime.bench.costs import decode_bytes, prefill_ops, vision_ops
from edge_runtime.model.manifest import Manifest, load_manifest


@pytest.fixture(scope="module")
def manifest(tiny_bundle: Path) -> Manifest:
    return load_manifest(tiny_bundle)


def test_prefill_is_two_operations_per_weight_of_the_layers(manifest: Manifest, tiny_checkpoint: Path) -> None:
    entries = open_weights(tiny_checkpoint).entries
    matrices = sum(e.size for name, e in entries.items() if ".language_model.layers." in name and len(e.shape) == 2)
    text = manifest.architecture.text
    attention = 2 * 2 * text.num_layers * text.num_attention_heads * text.head_dim * 10 * 10 / 2
    logits = 2 * text.vocab_size * text.hidden_size
    assert prefill_ops(manifest, 10) == 2 * matrices * 10 + attention + logits


def test_vision_is_two_operations_per_weight_and_row(manifest: Manifest, tiny_checkpoint: Path) -> None:
    entries = open_weights(tiny_checkpoint).entries
    tower = {
        name: e for name, e in entries.items() if ".visual." in name and len(e.shape) > 1 and "pos_embed" not in name
    }
    mergers = sum(e.size for name, e in tower.items() if "merger" in name)
    per_patch = sum(e.size for name, e in tower.items() if "merger" not in name)
    vision = manifest.architecture.vision
    tokens, patches = 6, 24
    attention = 2 * 2 * vision.depth * vision.hidden_size * patches**2
    assert vision_ops(manifest, tokens) == 2 * (per_patch * patches + mergers * tokens) + attention


def test_decode_reads_all_weights_and_the_context(manifest: Manifest) -> None:
    weights = manifest.files["decoder.onnx.data"].size_bytes
    assert decode_bytes(manifest, 0, 1024) == weights
    assert decode_bytes(manifest, 100, 1024) == weights + 102_400
