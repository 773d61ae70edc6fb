"""Phase 2 (may run beside phase 1): the language model learns to answer about screens it is told, not shown."""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Qwen3VLForConditionalGeneration

from pocket.train.chats import Chats, ScreenChats
from pocket.train.config import TEXT_HIDDEN, model_config
from pocket.train.conversations import NO_LOSS
from pocket.train.copying import hold_copies
from pocket.train.gaze import gaze_losses
from pocket.train.loop import Settings, add_settings, batches, restore, settings_of, train
from pocket.train.network import decode, new_model
from pocket.train.optimizer import Optimizers
from pocket.train.oracle import SCALE, Oracle, corrupt
from pocket.train.run import Run
from pocket.train.tokenizer import special_ids, vocabulary_size

SMALL = 0.95  # share of batches about small screens
MUON_RATE, ADAM_RATE = 0.012, 1e-3


def answer_losses(
    model: Qwen3VLForConditionalGeneration,
    oracle: Oracle,
    batch: ScreenChats,
    seen: Tensor,
    deepstack: list[Tensor],
) -> dict[str, Tensor]:
    """Losses of the answers given image embeddings `seen` [images, T, hidden]; see `gaze.py` for where to look.

    `answer` is the next-token loss and `right` the share of answer tokens that are right.
    """
    chats, text = batch.chats, model.model.language_model
    embeds = text.embed_tokens(chats.ids)
    pictured = chats.pictured[..., None].expand_as(embeds)
    embeds = embeds.masked_scatter(pictured, seen.to(embeds.dtype))
    taps = [torch.zeros_like(embeds).masked_scatter(pictured, tap.to(embeds.dtype)) for tap in deepstack]
    hidden, watched = decode(model, embeds, taps, chats.positions, chats.mask)
    wanted = chats.labels != NO_LOSS
    logits = F.linear(hidden[wanted], text.embed_tokens.weight).float()
    labels = chats.labels[wanted]
    return {
        "answer": F.cross_entropy(logits, labels),
        "right": (logits.argmax(-1) == labels).float().mean(),
        **gaze_losses(watched, chats, oracle.attributes(batch.labels), oracle.probe),
    }


def language_total(losses: dict[str, Tensor]) -> Tensor:
    """What both phases with a language model minimize."""
    return losses["answer"] + 0.5 * (losses["find"] + losses["read"]) + 0.2 * (losses["past"] + losses["attribute"])


def train_language(run: Run, settings: Settings, seed: int = 2) -> None:
    """Trains until the run's budget is spent and leaves its checkpoint: `model`, `oracle`, `optimizers`."""
    settings.apply()
    model = new_model(model_config(vocabulary_size(), special_ids()), seed, settings.device)
    embeddings = model.model.language_model.embed_tokens
    # Words are as long as codes. Logits would be too large, were it not for the last norm.
    torch.nn.init.normal_(embeddings.weight, std=SCALE / TEXT_HIDDEN**0.5)
    torch.nn.init.constant_(model.model.language_model.norm.weight, 0.1)
    oracle = Oracle(TEXT_HIDDEN).to(settings.device)
    oracle.spell(embeddings)
    named = [(n, p) for n, p in model.named_parameters() if ".language_model." in n]
    optimizers = Optimizers([*named, *oracle.named_parameters()], MUON_RATE, ADAM_RATE)
    parts = {"model": model, "oracle": oracle}
    restore(run, parts, optimizers)

    def losses_of(batch: ScreenChats) -> dict[str, Tensor]:
        hold_copies(model)
        seen = oracle(corrupt(batch.labels, 0.03))
        losses = answer_losses(model, oracle, batch, seen, [])
        return {"total": language_total(losses), **losses}

    screens = 6 * settings.scale
    source = batches(Chats(seed, run.step, screens, pixels=False, small=SMALL, free=settings.free), settings)
    train(run, settings, parts, optimizers, source, losses_of)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--budget-s", type=float, default=2400)
    add_settings(parser)
    options = parser.parse_args()
    train_language(Run(options.folder, options.budget_s), settings_of(options))
