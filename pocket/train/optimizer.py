"""Muon for the matrices inside blocks, AdamW for everything else, as one optimizer with one learning-rate factor.

Muon replaces a matrix's averaged gradient by its nearest orthogonal matrix (Newton-Schulz, Keller Jordan 2024,
https://kellerjordan.github.io/posts/muon/). On these small transformers it needs about half of AdamW's steps.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


def orthogonal(gradient: Tensor, steps: int = 5) -> Tensor:
    """Approximately the orthogonal factor of `gradient` [rows, columns]; bfloat16 inside."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x: Tensor = gradient.bfloat16()
    tall = x.size(0) > x.size(1)
    x = x.T if tall else x
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum, then orthogonalization. A group's `pieces` says how many matrices are stacked in each parameter.

    With `decay` d no matrix stretches a vector by more than about 1/d: then as much decays as an update adds.
    """

    def __init__(self, groups: list[dict[str, Any]], lr: float, momentum: float = 0.95) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "pieces": 1, "decay": 0.01})

    def step(self, closure: Any = None) -> Any:  # noqa: ARG002 - torch's signature
        """Updates parameters in place from their `.grad`."""
        with torch.no_grad():
            for group in self.param_groups:
                for param in group["params"]:
                    if param.grad is not None:
                        self._update(param, param.grad, group)

    def _update(self, param: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[param]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(param)
        average = state["momentum"].lerp_(gradient, 1 - group["momentum"])
        update = gradient.lerp(average, group["momentum"])
        for piece, target in zip(update.chunk(group["pieces"]), param.chunk(group["pieces"]), strict=True):
            scale = max(1, piece.size(0) / piece.size(1)) ** 0.5
            target.mul_(1 - group["lr"] * group["decay"])
            target.add_(orthogonal(piece).to(param.dtype), alpha=-group["lr"] * scale)


class Optimizers:
    """The pair of optimizers of one training phase. Mutates the model on `step`."""

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]], muon_lr: float, adam_lr: float) -> None:
        visual: list[nn.Parameter] = []
        fused: list[nn.Parameter] = []
        textual: list[nn.Parameter] = []
        mergers: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for name, param in named:
            matrices = fused if ".qkv." in name else visual if ".blocks." in name else textual
            if param.ndim == 2 and (".blocks." in name or ".layers." in name):
                matrices.append(param)
            else:
                (mergers if param.ndim == 2 and "merger" in name else others).append(param)
        # Decay keeps the decoder's layers from drowning the embeddings, which later layers are to read letters off.
        groups: list[dict[str, Any]] = [
            {"params": visual},
            {"params": fused, "pieces": 3},
            {"params": textual, "decay": 0.1},
        ]
        self._muon = Muon([group for group in groups if group["params"]], lr=muon_lr)
        # Undecayed, weights of the mergers that meet almost no activation grow and set the scale of a whole INT8 block.
        adams = [{"params": others, "weight_decay": 0.0}, {"params": mergers, "weight_decay": 1.0}]
        self._adam = torch.optim.AdamW([g for g in adams if g["params"]], lr=adam_lr, betas=(0.9, 0.98), fused=True)
        self._rates = (muon_lr, adam_lr)
        self._params = visual + fused + textual + mergers + others

    def step(self, factor: float) -> None:
        """One update at `factor` times the base rates, gradients clipped to norm 1."""
        torch.nn.utils.clip_grad_norm_(self._params, 1.0)
        for optimizer, rate in zip((self._muon, self._adam), self._rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """Both optimizers' states."""
        return {"muon": self._muon.state_dict(), "adam": self._adam.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self._muon.load_state_dict(state["muon"])
        self._adam.load_state_dict(state["adam"])
