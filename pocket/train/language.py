"""Phase 2 (may run beside phase 1): the language model learns to answer about screens it is told, not shown."""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Qwen3VLForConditionalGeneration

from pocket.train.chats import Chats, ScreenChats
from pocket.train.config import TEXT_HIDDEN, model_config
from pocket.train.conversations import NO_LOSS, ChatBatch
from pocket.train.heads import mean_of
from pocket.train.loop import Settings, add_settings, batches, restore, settings_of, train
from pocket.train.network import decode, new_model
from pocket.train.optimizer import Optimizers
from pocket.train.oracle import Oracle, corrupt
from pocket.train.run import Run
from pocket.train.tokenizer import special_ids, vocabulary_size

EASY = 400  # steps on small screens
MUON_RATE, ADAM_RATE = 0.02, 2e-3
LOOK = 0.3  # weight of the two losses that say where to look


def answer_losses(
    model: Qwen3VLForConditionalGeneration, oracle: Oracle, chats: ChatBatch, seen: Tensor, deepstack: list[Tensor]
) -> tuple[dict[str, Tensor], Tensor]:
    """Losses of the answers given image embeddings `seen` [images, T, hidden], and which answer tokens were right.

    `answer` is the next-token loss; `look` and `slot` say whether a middle layer looks where the answer stands.
    """
    text = model.model.language_model
    embeds = text.embed_tokens(chats.ids)
    pictured = chats.pictured[..., None].expand_as(embeds)
    embeds = embeds.masked_scatter(pictured, seen.to(embeds.dtype))
    taps = [torch.zeros_like(embeds).masked_scatter(pictured, tap.to(embeds.dtype)) for tap in deepstack]
    hidden, gaze, watched = decode(model, embeds, taps, chats.positions, chats.mask)
    wanted = chats.labels != NO_LOSS
    logits = F.linear(hidden[wanted], text.embed_tokens.weight).float()
    labels = chats.labels[wanted]
    told = chats.looks.any(-1)
    mass = (gaze.mean(1) * chats.looks).sum(-1)
    slots = F.cross_entropy(
        oracle.slot(watched).float().flatten(0, 1), chats.slots.flatten().clamp(min=0), reduction="none"
    )
    losses = {
        "answer": F.cross_entropy(logits, labels),
        "look": mean_of(-(mass + 1e-4).log(), told),
        "slot": mean_of(slots, chats.slots.flatten() >= 0),
    }
    return losses, logits.argmax(-1) == labels


def train_language(run: Run, settings: Settings, seed: int = 2) -> None:
    """Trains until the run's budget is spent and leaves its checkpoint: `model`, `oracle`, `optimizers`."""
    settings.apply()
    model = new_model(model_config(vocabulary_size(), special_ids()), seed, settings.device)
    embeddings = model.model.language_model.embed_tokens
    torch.nn.init.normal_(embeddings.weight, std=0.05)
    oracle = Oracle(TEXT_HIDDEN).to(settings.device)
    oracle.spell(embeddings)
    named = [(n, p) for n, p in model.named_parameters() if ".language_model." in n]
    optimizers = Optimizers([*named, *oracle.named_parameters()], MUON_RATE, ADAM_RATE)
    parts = {"model": model, "oracle": oracle}
    restore(run, parts, optimizers)

    def losses_of(batch: ScreenChats) -> dict[str, Tensor]:
        seen = oracle(corrupt(batch.labels, 0.03))
        losses, hits = answer_losses(model, oracle, batch.chats, seen, [])
        total = losses["answer"] + LOOK * (losses["look"] + losses["slot"])
        return {"total": total, **losses, "right": hits.float().mean()}

    screens = 12 * settings.scale
    source = batches(Chats(seed, run.step, screens, pixels=False, easy_until=EASY, free=settings.free), settings)
    train(run, settings, parts, optimizers, source, losses_of)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--budget-s", type=float, default=2400)
    add_settings(parser)
    options = parser.parse_args()
    train_language(Run(options.folder, options.budget_s), settings_of(options))
