"""How far a bundle may be from its checkpoint, by how its weights are stored. Knows no graphs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import msgspec

from edge_runtime.model.manifest import Manifest, ParityReport


@dataclass(frozen=True, slots=True)
class ParityLimits:
    """Bounds on a parity report. KL in nats; None: not bounded."""

    min_vision_cosine: float
    max_abs_logit_error: float | None
    max_mean_kl: float
    max_rounded_kl: float
    min_greedy_share: float

    def failures(self, report: ParityReport) -> list[str]:
        """What of `report` is out of bounds, each with figure and bound; empty when it passes. NaN never passes."""
        share = report.greedy_tokens_equal / report.greedy_tokens_compared
        found = []
        if not report.vision_cosine >= self.min_vision_cosine:
            found.append(f"vision cosine {report.vision_cosine:.6f}, at least {self.min_vision_cosine} wanted")
        error, bound = report.max_abs_logit_error, self.max_abs_logit_error
        if bound is not None and not error <= bound:
            found.append(f"largest logit error {error:.2e}, at most {bound:.0e} wanted")
        if not report.mean_kl <= self.max_mean_kl:
            found.append(f"mean KL {report.mean_kl:.2e} nats, at most {self.max_mean_kl:g} wanted")
        rounded = report.mean_kl_to_rounded
        if rounded is not None and not rounded <= self.max_rounded_kl:
            found.append(f"mean KL to rounded weights {rounded:.2e} nats, at most {self.max_rounded_kl:g} wanted")
        if not share >= self.min_greedy_share:
            found.append(f"{share:.0%} of greedy tokens agree, at least {self.min_greedy_share:.0%} wanted")
        return found

    def judge(self, report: ParityReport) -> ParityReport:
        """The same report with `passed` set."""
        return msgspec.structs.replace(report, passed=not self.failures(report))


EXACT = ParityLimits(0.99999, max_abs_logit_error=1e-3, max_mean_kl=1e-6, max_rounded_kl=1e-6, min_greedy_share=1.0)
"""fp32: the same function up to the order of additions."""

# What rounding costs was measured on random tiny models, the worst there are: nothing in them was trained to be robust.
# Over 4 seeds, 3 shapes of 4 and 6 layers, block sizes 32 and 64: int8 KL 0.008 to 0.022 and 84 to 95 of 96 greedy
# tokens equal; int4 KL 0.5 to 2.1 and 19 to 72 of 96; outputs that have nothing to do with each other are some 16 nats
# apart. To equally rounded weights both come within 0.0018 a layer: ONNX Runtime rounds activations, and errors add
# up over layers. Flavour edge rounds those that meet int4 weights more coarsely (decision 24): there it is 0.0047. A
# 4-layer model that loses DeepStack is at 0.006 a layer or more, on top.
# Vision cosines were measured on a trained tower, as a random one hides mistakes: 0.9948 in int8, 0.953 and less with
# mistakes in the positions (decision 9).
MIN_VISION_COSINE = 0.99
MAX_ROUNDED_KL_PER_LAYER = 0.003
MAX_EDGE_INT4_ROUNDED_KL_PER_LAYER = 0.006
MAX_INT8_KL_PER_LAYER = 0.0125
MAX_INT4_KL = 4.0
MIN_INT8_GREEDY_SHARE = 0.7
MIN_INT4_GREEDY_SHARE = 0.1


def limits_for(manifest: Manifest) -> ParityLimits:
    """The bounds for the coarsest storage among all tensors: a little above what it costs.

    int4 is loose about what the rounding of weights costs, and as tight as int8 about the graphs that use them.
    """
    scheme, layers = manifest.quantization, manifest.architecture.text.num_layers
    formats = (scheme.decoder_linear, scheme.vision_linear, scheme.lm_head, scheme.embedding)
    stored = {tensor_format.weights for tensor_format in formats}
    if stored == {"fp32"}:
        return EXACT
    coarse = manifest.flavour == "edge" and "int4" in stored
    return ParityLimits(
        MIN_VISION_COSINE,
        max_abs_logit_error=None,
        max_mean_kl=MAX_INT4_KL if "int4" in stored else MAX_INT8_KL_PER_LAYER * layers,
        max_rounded_kl=(MAX_EDGE_INT4_ROUNDED_KL_PER_LAYER if coarse else MAX_ROUNDED_KL_PER_LAYER) * layers,
        min_greedy_share=MIN_INT4_GREEDY_SHARE if "int4" in stored else MIN_INT8_GREEDY_SHARE,
    )


def quick_limits_for(manifest: Manifest) -> ParityLimits:
    """The bounds for one short prompt of a large model.

    What rounding costs a large model was not measured as it was for tiny ones, and a few tokens would not tell it:
    a quantized bundle is judged by its vision tower and by the reference on equally rounded weights.
    """
    limits = limits_for(manifest)
    return limits if limits is EXACT else replace(limits, max_mean_kl=math.inf, min_greedy_share=0.0)
