"""The parity gate: run a bundle and a reference over the same fixed prompts and say how far apart they are.

The bundle answers each prompt greedily, one token at a time with its KV cache, as it will at run time. The reference
then reads prompt and answer in one pass: its logits at every answer token are compared with those the bundle chose
from. As long as all argmaxes agree, free-running greedy decoding of both gives the same text. A quantized bundle is
also compared with the reference on equally rounded weights, where rounding is no excuse.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from edge_export.checkpoint.checkpoint import open_checkpoint
from edge_export.errors import OptionError, SourceError
from edge_export.families.qwen3_vl.verify.family import (
    Array,
    BundleModel,
    GatePrompt,
    Judges,
    gate_prompts,
    open_judges,
)
from edge_export.verify.limits import ParityLimits, limits_for, quick_limits_for
from edge_export.verify.memory import numpy_cache_bytes
from edge_kernels.library import KernelError, KernelLibrary
from edge_runtime.model.manifest import TOKENIZER, Manifest, ParityReport, load_manifest

ReferenceName = Literal["numpy", "optimum"]
ANSWER_TOKENS = 24
QUICK_PROMPT, QUICK_ANSWER_TOKENS = "wide image", 8
"""All that the quick gate of a large model asks: one question about one picture, and the start of an answer."""


@dataclass(frozen=True, slots=True)
class PromptParity:
    """How far bundle and reference are apart on one prompt. `vision_cosine` is None without images."""

    name: str
    vision_cosine: float | None
    max_abs_logit_error: float
    mean_abs_logit_error: float
    mean_kl: float
    greedy_tokens_compared: int
    greedy_tokens_equal: int
    mean_kl_to_rounded: float | None


def run_gate(
    bundle: Path,
    source: Path,
    reference: str,
    on_prompt: Callable[[PromptParity], None] | None = None,
    kernels: KernelLibrary | None = None,
    manifest: Manifest | None = None,
) -> ParityReport:
    """Compare the bundle with the checkpoint it was made from; `on_prompt` hears of each prompt as it is done.

    `manifest` is that of a bundle which has none in its folder yet. A bundle of flavour `edge` runs on `kernels`, by
    default the installed ones. Raises `OptionError` for an unknown reference, or where reference or bundle cannot run
    here, and `SourceError` where `source` is not the checkpoint that the bundle was made from.
    """
    if reference not in ("numpy", "optimum"):
        raise OptionError(f"there is no reference {reference!r}; choose numpy or optimum")
    manifest = manifest or load_manifest(bundle)
    _check_source(manifest, source)
    if manifest.flavour == "edge" and kernels is None:
        kernels = _installed_kernels()
    model = BundleModel(bundle, manifest, source, kernels)
    judges = open_judges(reference, source, manifest, numpy_cache_bytes())
    prompts = gate_prompts(Tokenizer.from_file(str(bundle / TOKENIZER)), manifest)
    results = []
    for prompt in prompts:
        results.append(compare(model, judges, prompt))
        if on_prompt is not None:
            on_prompt(results[-1])
    return summarize(results, cast(ReferenceName, reference), limits_for(manifest))


def run_quick_gate(
    bundle: Path, manifest: Manifest, source: Path, kernels: KernelLibrary | None = None
) -> ParityReport:
    """The gate for an export of a large model: one short prompt, numpy, one matrix in memory at a time.

    `source` must be the checkpoint the bundle was just made from. A bundle of flavour `edge` needs `kernels`.
    """
    model = BundleModel(bundle, manifest, source, kernels)
    prompts = gate_prompts(Tokenizer.from_file(str(bundle / TOKENIZER)), manifest)
    (prompt,) = (prompt for prompt in prompts if prompt.name == QUICK_PROMPT)
    result = compare(model, open_judges("numpy", source, manifest, 0), prompt, QUICK_ANSWER_TOKENS)
    return summarize([result], "numpy", quick_limits_for(manifest))


def compare(model: BundleModel, judges: Judges, prompt: GatePrompt, answer_tokens: int = ANSWER_TOKENS) -> PromptParity:
    """One prompt through the bundle and its judges."""
    tokens, logits = model.greedy(prompt.prompt, answer_tokens)
    model.unload()
    expected = judges.reference.logits(prompt.prompt, tokens[:-1])  # [n, V]
    rounded = None if judges.rounded is None else judges.rounded.logits(prompt.prompt, tokens[:-1])
    error = np.abs(logits - expected)
    cosines = [_cosine(model.vision(patches), judges.reference.vision(patches)) for patches in prompt.prompt.media]
    return PromptParity(
        name=prompt.name,
        vision_cosine=float(np.min(cosines)) if cosines else None,
        max_abs_logit_error=float(error.max()),
        mean_abs_logit_error=float(error.mean()),
        mean_kl=float(_kl(expected, logits).mean()),
        greedy_tokens_compared=len(tokens),
        greedy_tokens_equal=int(np.sum(expected.argmax(axis=-1) == tokens)),
        mean_kl_to_rounded=None if rounded is None else float(_kl(rounded, logits).mean()),
    )


def summarize(results: Sequence[PromptParity], reference: ReferenceName, limits: ParityLimits) -> ParityReport:
    """The worst of the maxima, the mean of the means, and whether all of it is within the limits.

    NaN anywhere stays NaN (Python's own min and max would lose it).
    """
    cosines = [result.vision_cosine for result in results if result.vision_cosine is not None]
    rounded = [result.mean_kl_to_rounded for result in results if result.mean_kl_to_rounded is not None]
    report = ParityReport(
        reference=reference,
        passed=False,
        num_prompts=len(results),
        vision_cosine=float(np.min(cosines)),
        max_abs_logit_error=float(np.max([result.max_abs_logit_error for result in results])),
        mean_abs_logit_error=float(np.mean([result.mean_abs_logit_error for result in results])),
        mean_kl=float(np.mean([result.mean_kl for result in results])),
        greedy_tokens_compared=sum(result.greedy_tokens_compared for result in results),
        greedy_tokens_equal=sum(result.greedy_tokens_equal for result in results),
        mean_kl_to_rounded=float(np.mean(rounded)) if rounded else None,
    )
    return limits.judge(report)


def _installed_kernels() -> KernelLibrary:
    try:
        return KernelLibrary()
    except KernelError as error:
        raise OptionError(f"a bundle of flavour edge cannot be verified without our kernels: {error}") from error


def _check_source(manifest: Manifest, source: Path) -> None:
    found = open_checkpoint(str(source)).sha256()
    if found != manifest.source_sha256:
        raise SourceError(
            f"{source} is not the checkpoint this bundle was made from: its SHA-256 is {found[:16]}..., the bundle "
            f"says {manifest.source_sha256[:16]}...; give the right checkpoint, or export this one again"
        )


def _cosine(a: tuple[Array, Array], b: tuple[Array, Array]) -> float:
    """Cosine between vision outputs, the lowest of image embeddings and DeepStack taps."""
    pairs = [(a[0], b[0]), *zip(a[1], b[1], strict=True)]
    norms = [float(np.linalg.norm(x) * np.linalg.norm(y)) for x, y in pairs]
    # Two zero vectors agree (taps that training has not touched yet); a zero beside anything else does not.
    cosines = [
        float(np.vdot(x, y)) / norm if norm else float(np.array_equal(x, y))
        for (x, y), norm in zip(pairs, norms, strict=True)
    ]
    return float(np.min(cosines))


def _kl(reference: Array, other: Array) -> NDArray[np.float64]:
    """KL divergence [n] in nats of the softmax of `other` from that of `reference`."""
    log_p, log_q = _log_softmax(reference), _log_softmax(other)
    kl: NDArray[np.float64] = np.sum(np.exp(log_p) * (log_p - log_q), axis=-1)
    return kl


def _log_softmax(logits: Array) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    log_p: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return log_p
