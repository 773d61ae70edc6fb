"""Image embeddings made from the truth instead of pixels, to train the language model before the vision tower can see.

A token's embedding has one block of 32 numbers for each of its 8 columns, holding the code of the character there (the
two text rows have codes of their own and are added), plus a code for the element's kind, one for its state, and a
linear map of where its centre is. All codes are random and fixed by a seed, so the vision tower can learn to produce
them while the language model learns to use them. Letters in prompts start as the same codes, repeated in every block,
so that a name resembles the tokens that show it.
"""

import torch
from torch import Tensor, nn

from pocket.screens.fonts import CHARACTERS
from pocket.screens.labels import COLUMNS, NUM_CHARS, NUM_WAVES, SLOTS
from pocket.screens.screen import KINDS, STATES
from pocket.train.heads import DenseBatch
from pocket.train.tokenizer import load


class Oracle(nn.Module):
    """Maps dense labels [B, T, ...] to embeddings [B, T, hidden]."""

    codes: Tensor
    kind: Tensor
    state: Tensor
    place: Tensor

    def __init__(self, hidden: int, scale: float = 0.1, seed: int = 7) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        shapes = {"codes": (2, NUM_CHARS, hidden // COLUMNS), "kind": (len(KINDS) + 1, hidden),
                  "state": (len(STATES), hidden), "place": (2 * NUM_WAVES, hidden)}  # fmt: skip
        scales = {"codes": 2 * scale, "kind": scale, "state": scale, "place": scale / 3}
        for name, shape in shapes.items():
            self.register_buffer(name, torch.randn(shape, generator=draw) * scales[name])
        self.slot = nn.Linear(hidden, SLOTS)  # reads from a decoder state which letter of a token comes next

    def forward(self, labels: DenseBatch) -> Tensor:
        """The sum of the codes, float32; blank slots add nothing, and the background only its own code."""
        batch, count, _ = labels.chars.shape
        rows = labels.chars.view(batch, count, 2, COLUMNS)
        drawn = (rows > 0).to(self.codes.dtype)[..., None]
        upper, lower = self.codes[0][rows[:, :, 0]], self.codes[1][rows[:, :, 1]]
        chars = (upper * drawn[:, :, 0] + lower * drawn[:, :, 1]).flatten(2)
        owned = (labels.kind > 0).to(chars.dtype)[..., None]
        return chars + self.kind[labels.kind] + owned * (self.state[labels.state] + labels.place @ self.place)

    def spell(self, embeddings: nn.Embedding) -> None:
        """Starts the embeddings of single-byte tokens, in place, from the codes of their characters."""
        for index, char in enumerate(CHARACTERS):
            token = load().encode(char).ids
            if len(token) == 1:
                code = self.codes[:, index + 1].sum(dim=0) / 2**0.5
                with torch.no_grad():
                    embeddings.weight[token[0]] = code.repeat(COLUMNS) * 0.5


def corrupt(labels: DenseBatch, rate: float) -> DenseBatch:
    """Labels as an imperfect eye would see them: some characters misread or missed, places a little off."""
    hit = (torch.rand_like(labels.place[..., :1].expand_as(labels.chars)) < rate) & (labels.chars > 0)
    wrong = torch.randint_like(labels.chars, NUM_CHARS)
    missed = torch.randint_like(labels.chars, 3) == 0
    chars = torch.where(hit, wrong * ~missed, labels.chars)
    return DenseBatch(chars, labels.kind, labels.state, labels.place + torch.randn_like(labels.place) * 0.08)
