"""Training for INT4: forward and backward see the decoder's matrices as an export will round them, updates do not.

Gradients at the rounded weights are applied to the exact ones (a straight-through estimator, Bengio et al. 2013,
https://arxiv.org/abs/1308.3432), so the loss falls where rounded weights are good.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import Qwen3VLForConditionalGeneration

from edge_export.quantize import quantize

BITS, BLOCK = 4, 32  # the exporter's defaults
_SEARCH_EVERY = 50  # steps; the search takes as long as a step, and scales change slowly


class Rounding:
    """The decoder's matrices of one model. Remembers a scale for each block of a row."""

    def __init__(self, model: Qwen3VLForConditionalGeneration) -> None:
        layers = model.model.language_model.layers
        self._weights = [module.weight for module in layers.modules() if isinstance(module, nn.Linear)]
        self._scales: list[Tensor] = []
        self._uses = 0

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the model's matrices are rounded; outside they are exact. Backward belongs inside as well."""
        if self._uses % _SEARCH_EVERY == 0:
            self._scales = [_scales(weight) for weight in self._weights]
        self._uses += 1
        exact = [weight.detach().clone() for weight in self._weights]
        with torch.no_grad():
            for weight, scales in zip(self._weights, self._scales, strict=True):
                weight.copy_(_rounded(weight, scales))
        try:
            yield
        finally:
            with torch.no_grad():
                for weight, kept in zip(self._weights, exact, strict=True):
                    weight.copy_(kept)


def _scales(weight: Tensor) -> Tensor:
    """The exporter's scale of each block, [rows, blocks, 1]."""
    blocks, _ = quantize(weight.detach().float().cpu().numpy(), BITS, BLOCK, half_scales=True)
    return torch.from_numpy(blocks.scales)[..., None].to(weight.device)


def _rounded(weight: Tensor, scales: Tensor) -> Tensor:
    """`weight` [rows, columns] in steps of its blocks' scales; columns are whole blocks."""
    half = 2 ** (BITS - 1)
    inverse = torch.where(scales == 0, 0, 1 / scales)
    steps = (weight.view(*scales.shape[:2], BLOCK) * inverse).round_().clamp_(-half, half - 1)
    return (steps * scales).view_as(weight)
