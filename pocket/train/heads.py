"""Throw-away losses that teach the vision tower to read by itself: letters in patches, codes in tokens."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from pocket.screens.labels import NUM_CHARS, SLOTS

_BLANK_SHARE = 0.3  # most slots are blank; together they weigh this much against the characters


@dataclass(frozen=True, slots=True)
class DenseBatch:
    """`DenseLabels` of a batch: `chars` [B, T, 16], `kind` and `state` [B, T], `place` [B, T, 28]."""

    chars: Tensor
    kind: Tensor
    state: Tensor
    place: Tensor


class LetterHead(nn.Module):
    """Reads the characters in the four slots of every patch off the vision tower's last states."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden)
        self.patch_chars = nn.Linear(hidden, SLOTS // 4 * NUM_CHARS)

    def losses(self, patches: Tensor, labels: DenseBatch) -> dict[str, Tensor]:
        """From patches [B, 4T, hidden]: the loss `letter`, and `letters_right`, the share it names right."""
        batch, count = labels.kind.shape
        # A token's 16 slots are 2 rows of 8; each of its four patches (merge order) holds 4 neighbouring slots.
        chars = labels.chars.view(batch, count, 2, 2, 4).reshape(-1)
        logits = self.patch_chars(self.norm(patches)).float().view(-1, NUM_CHARS)
        each = F.cross_entropy(logits, chars, reduction="none")
        drawn = chars > 0
        loss = mean_of(each, drawn) + _BLANK_SHARE * mean_of(each, ~drawn)
        return {"letter": loss, "letters_right": mean_of((logits.argmax(-1) == chars).float(), drawn)}


def code_loss(tokens: Tensor, codes: Tensor, labels: DenseBatch) -> Tensor:
    """Squared error of image embeddings against the oracle's, [B, T, hidden] each; 1 is as bad as the mean."""
    error = (tokens.float() - codes).square().mean(-1) / codes.var(dim=(0, 1)).mean()
    owned = labels.kind > 0
    return mean_of(error, owned) + 0.5 * mean_of(error, ~owned)


def mean_of(values: Tensor, chosen: Tensor) -> Tensor:
    """The mean of the chosen values; 0 when none is chosen."""
    return (values * chosen).sum() / chosen.sum().clamp(min=1)
