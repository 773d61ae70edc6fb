"""Throw-away losses that tell three decoder layers where to look.

- layer `STEP`, its last head: every token looks at the one before it, in an image at its left neighbour.
- layer `FIND`, its first two heads: the token before an answer's token looks at the element that the answer is about;
  a linear probe reads that element's kind, state and place off the layer's output.
- layer `READ`, head `c`: it looks at the image token whose column `c` holds the letter that comes next, and away from
  the picture if another column holds it. What a head brings back is then always the letter of its own column.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from pocket.screens.labels import COLUMNS
from pocket.train.conversations import NO_LETTER, ChatBatch
from pocket.train.heads import mean_of
from pocket.train.looks import AWAY
from pocket.train.network import Watched
from pocket.train.oracle import SCALE

STEP, FIND, READ = 0, 2, 4  # layers
FIND_HEADS = 2


def gaze_losses(watched: Watched, chats: ChatBatch, attributes: Tensor, probe: torch.nn.Linear) -> dict[str, Tensor]:
    """`past`, `find`, `attribute`, `read`, and `aim`: how often the right head of `READ` looks at the right token.

    `attributes` [images, T, NUM_ATTRIBUTES] are the truth about every image token.
    """
    told, valid = _rows(chats.looks.any(-1))
    find = _look(watched, chats, FIND, told)[:, :FIND_HEADS].exp().mean(1)
    targets = _take(chats.looks.float(), told)
    missed = -((find * targets).sum(-1) + 1e-4).log()

    spread = torch.zeros(*chats.ids.shape, attributes.size(-1), device=attributes.device)
    spread = spread.masked_scatter(chats.pictured[..., None].expand_as(spread), attributes)
    wanted = (targets @ spread) / targets.sum(-1, keepdim=True).clamp(min=1)
    read_off = probe(_take(watched.states[FIND], told)).float()
    error = (read_off - wanted).square().sum(-1) / SCALE**2
    return {
        "past": _step(watched, chats),
        "find": mean_of(missed, valid),
        "attribute": mean_of(error, valid),
        **_read(watched, chats),
    }


def _step(watched: Watched, chats: ChatBatch) -> Tensor:
    query, key = watched.queries[STEP][:, -1], watched.keys[STEP][:, -1]
    scores = (query @ key.transpose(1, 2)).float() * query.size(-1) ** -0.5
    scores = scores.masked_fill(~chats.mask[:, 0], -30000.0)
    real = chats.mask[:, 0, :, 0]  # padding does not see the first token
    each = F.cross_entropy(scores.flatten(0, 1), chats.before.flatten(), reduction="none")
    return mean_of(each, real.flatten())


def _read(watched: Watched, chats: ChatBatch) -> dict[str, Tensor]:
    rows, valid = _rows(chats.letters != NO_LETTER)
    looks = _look(watched, chats, READ, rows)  # [B, H, R, L]
    letters = _take(chats.letters[..., None], rows)[..., 0]
    written = valid & (letters != AWAY)
    letters = letters.clamp(min=0)
    own = F.one_hot(letters % COLUMNS, looks.size(1)).transpose(1, 2) * written[:, None]  # [B, H, R]
    place = (letters // COLUMNS)[:, None, :, None].expand(-1, looks.size(1), -1, 1)
    hit = looks.gather(-1, place)[..., 0]
    away = looks.masked_fill(chats.pictured[:, None, None], -30000.0).logsumexp(-1)
    others = (1 - own) * valid[:, None]
    loss = -(hit * own).sum() / own.sum().clamp(min=1) - (away * others).sum() / others.sum().clamp(min=1)
    return {"read": loss, "aim": mean_of((hit > -0.7).float(), own)}


def _look(watched: Watched, chats: ChatBatch, layer: int, rows: Tensor) -> Tensor:
    """Log of where the heads of a layer look from the given rows [B, R]; float32 [B, H, R, L]."""
    query, key = watched.queries[layer], watched.keys[layer]
    groups = query.size(1) // key.size(1)
    picked = query.gather(2, rows[:, None, :, None].expand(-1, query.size(1), -1, query.size(-1)))
    scores = (picked @ key.repeat_interleave(groups, dim=1).transpose(2, 3)).float() * query.size(-1) ** -0.5
    seen = _take(chats.mask[:, 0].float(), rows) > 0
    shares: Tensor = scores.masked_fill(~seen[:, None], -30000.0).log_softmax(-1)
    return shares


def _rows(chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Indices of the chosen places of each chat, padded to one count, int64 [B, R]; which are chosen, bool [B, R]."""
    count = max(1, int(chosen.sum(-1).max()))
    valid, rows = chosen.byte().topk(count, dim=-1)
    return rows, valid.bool()


def _take(values: Tensor, rows: Tensor) -> Tensor:
    """The given rows [B, R] of `values` [B, L, n]."""
    return values.gather(1, rows[..., None].expand(-1, -1, values.size(-1)))
