"""The pieces of Qwen3-VL for the parity gate: the bundle under test, what judges it, and the prompts it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edge_export.families.qwen3_vl.reference.model import NumpyReference
from edge_export.families.qwen3_vl.reference.ops import Array
from edge_export.families.qwen3_vl.reference.preprocess import Patches
from edge_export.families.qwen3_vl.reference.prompt import Prompt
from edge_export.families.qwen3_vl.reference.weights import Weights
from edge_export.families.qwen3_vl.verify.bundle_model import BundleModel
from edge_export.families.qwen3_vl.verify.prompts import GatePrompt, gate_prompts
from edge_export.families.qwen3_vl.verify.rounded_weights import RoundedWeights
from edge_runtime.model.manifest import Manifest

__all__ = ["Array", "BundleModel", "GatePrompt", "Judges", "gate_prompts", "open_judges"]


class Reference(Protocol):
    """The model as its makers defined it."""

    def vision(self, patches: Patches) -> tuple[Array, Array]:
        """Image embeddings [N/4, D] and DeepStack features [L, N/4, D]."""

    def logits(self, prompt: Prompt, answer: Sequence[int]) -> Array:
        """Logits [n + 1, V] that choose each of the n tokens of `answer`, and the token after them."""


@dataclass(frozen=True, slots=True)
class Judges:
    """The checkpoint as it is, and, for a quantized bundle, as the bundle rounds it (always by numpy)."""

    reference: Reference
    rounded: Reference | None


def open_judges(name: str, source: Path, manifest: Manifest, cache_bytes: int) -> Judges:
    """The reference `name`, numpy or optimum, of the checkpoint `source`. Raises `OptionError` where it cannot run."""
    rounded = None
    if manifest.tensor_errors:
        rounded = NumpyReference(source, RoundedWeights(source, manifest, cache_bytes // 2))
    if name == "numpy":
        return Judges(NumpyReference(source, Weights(source, cache_bytes // 2)), rounded)
    from edge_export.families.qwen3_vl.verify.optimum_reference import open_optimum_reference  # noqa: PLC0415  needs torch

    return Judges(open_optimum_reference(source), rounded)
