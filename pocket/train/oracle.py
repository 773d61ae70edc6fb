"""Image embeddings made from the truth instead of pixels, to train the language model before the vision tower can see.

A token's embedding has one block of 23 numbers for each of its 8 columns, holding the code of the character there (the
two text rows have codes of their own and are added). After the blocks come flags: which slots hold a character, the
element's kind and state, and where its centre is. The codes are fixed by a seed, so the vision tower can learn to
produce them while the language model learns to use them. Letters in prompts start as the same codes, repeated in every
block, so that a name resembles the tokens that show it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pocket.screens.fonts import CHARACTERS
from pocket.screens.labels import COLUMNS, NUM_CHARS, NUM_PLACE, SLOTS
from pocket.screens.screen import KINDS, STATES
from pocket.train.heads import DenseBatch
from pocket.train.tokenizer import load

CODE = 23  # numbers per character
_LETTERS = COLUMNS * CODE
SCALE = 6.0  # length of a character's code; with less, what the first layers add drowns it
_COARSE = 4.0  # what products of codes, 36 where they are the same, are divided by to become log-odds
_FLAG, _ATTRIBUTE = 0.3 * SCALE, 0.8 * SCALE
NUM_ATTRIBUTES = len(KINDS) + 1 + len(STATES) + 2 * NUM_PLACE
ATTRIBUTES = slice(_LETTERS + SLOTS, _LETTERS + SLOTS + NUM_ATTRIBUTES)  # where they stand in an embedding


class Oracle(nn.Module):
    """Maps dense labels [B, T, ...] to embeddings [B, T, hidden]. Its `probe` reads attributes off decoder states."""

    codes: Tensor

    def __init__(self, hidden: int, seed: int = 7) -> None:
        super().__init__()
        self.unused = hidden - _LETTERS - SLOTS - NUM_ATTRIBUTES
        if self.unused < 0:
            raise ValueError(f"hidden is {hidden}; the code needs at least {hidden - self.unused}")
        self.register_buffer("codes", SCALE * _spread(2 * NUM_CHARS, seed).view(2, NUM_CHARS, CODE))
        self.probe = nn.Linear(hidden, NUM_ATTRIBUTES)

    def forward(self, labels: DenseBatch) -> Tensor:
        """The embeddings, float32; blank slots add nothing, and the background only its own kind."""
        batch, count, _ = labels.chars.shape
        rows = labels.chars.view(batch, count, 2, COLUMNS)
        drawn = (rows > 0).float()[..., None]
        upper, lower = self.codes[0][rows[:, :, 0]], self.codes[1][rows[:, :, 1]]
        letters = (upper * drawn[:, :, 0] + lower * drawn[:, :, 1]).flatten(2)
        flags = (labels.chars > 0).float() * _FLAG
        return F.pad(torch.cat((letters, flags, self.attributes(labels)), dim=-1), (0, self.unused))

    def attributes(self, labels: DenseBatch) -> Tensor:
        """Kind, state and place of the element that owns each token, [B, T, NUM_ATTRIBUTES]."""
        owned = (labels.kind > 0).float()[..., None]
        kind = F.one_hot(labels.kind, len(KINDS) + 1).float()
        state = F.one_hot(labels.state, len(STATES)).float()
        return torch.cat((kind, state * owned, labels.place * owned), dim=-1) * _ATTRIBUTE

    def spelling(self, tokens: Tensor, labels: DenseBatch) -> Tensor:
        """How badly the characters can be told from image embeddings [B, T, hidden] by the codes that they hold.

        Squared error of the code does not care which of its numbers tell one letter from another; this does. Slots with
        a character in both text rows, one in two hundred, are left out.
        """
        batch, count, _ = labels.chars.shape
        rows = labels.chars.view(batch, count, 2, COLUMNS)
        one = (rows > 0).sum(2) == 1
        blocks = tokens[..., :_LETTERS].reshape(batch, count, COLUMNS, CODE)[one].float()
        likeness = blocks @ self.codes.flatten(0, 1).T / _COARSE
        target = rows.sum(2) + NUM_CHARS * (rows[:, :, 1] > 0)
        return F.cross_entropy(likeness, target[one], reduction="sum") / one.sum().clamp(min=1)

    def spell(self, embeddings: nn.Embedding) -> None:
        """Starts the embeddings of single-byte tokens, in place, from the codes of their characters."""
        for index, char in enumerate(CHARACTERS):
            token = load().encode(char).ids
            if len(token) == 1:
                code = self.codes[:, index + 1].sum(dim=0) / 2**0.5
                with torch.no_grad():
                    embeddings.weight[token[0]] = F.pad(
                        code.repeat(COLUMNS) * 0.5, (0, embeddings.embedding_dim - _LETTERS)
                    )


def corrupt(labels: DenseBatch, rate: float) -> DenseBatch:
    """Labels as an imperfect eye would see them: some characters misread or missed, places a little off."""
    hit = (torch.rand_like(labels.place[..., :1].expand_as(labels.chars)) < rate) & (labels.chars > 0)
    wrong = torch.randint_like(labels.chars, NUM_CHARS)
    missed = torch.randint_like(labels.chars, 3) == 0
    chars = torch.where(hit, wrong * ~missed, labels.chars)
    return DenseBatch(chars, labels.kind, labels.state, labels.place + torch.randn_like(labels.place) * 0.08)


def _spread(count: int, seed: int) -> Tensor:
    """`count` directions of length 1 that are pushed apart until few are alike; [count, CODE]."""
    codes = F.normalize(torch.randn(count, CODE, generator=torch.Generator().manual_seed(seed)), dim=-1)
    for _ in range(100):
        alike = codes @ codes.T - torch.eye(count)
        codes = F.normalize(codes - 0.3 * alike.pow(3) @ codes, dim=-1)
    return codes
