"""Phase 1: the vision tower learns to read and to speak the oracle's code; no language model takes part."""

import argparse
from pathlib import Path

from torch import Tensor
from transformers import Qwen3VLForConditionalGeneration

from pocket.train.config import TEXT_HIDDEN, model_config
from pocket.train.heads import DenseBatch, LetterHead, code_loss
from pocket.train.images import ImageBatch, Screens
from pocket.train.loop import Settings, add_settings, batches, restore, settings_of, train
from pocket.train.network import encode_images, new_model
from pocket.train.optimizer import Optimizers
from pocket.train.oracle import Oracle
from pocket.train.run import Run
from pocket.train.tokenizer import special_ids, vocabulary_size

MUON_RATE, ADAM_RATE = 0.02, 2e-3


def eye_losses(
    oracle: Oracle, head: LetterHead, patches: Tensor, tokens: Tensor, labels: DenseBatch
) -> dict[str, Tensor]:
    """What the tower is judged by: its last states [B, 4T, hidden] and its image embeddings [B, T, hidden]."""
    losses = head.losses(patches, labels)
    losses["code"] = code_loss(tokens, oracle(labels), labels)
    losses["spelling"] = oracle.spelling(tokens, labels)
    return losses


def reading_losses(
    model: Qwen3VLForConditionalGeneration, oracle: Oracle, head: LetterHead, batch: ImageBatch
) -> dict[str, Tensor]:
    """`eye_losses` of a batch of screens that nothing is asked about."""
    patches, _, tokens = encode_images(model, batch.images, deepstack=False)
    return eye_losses(oracle, head, patches, tokens, batch.labels)


def reading_total(losses: dict[str, Tensor]) -> Tensor:
    """What is minimized of them."""
    return losses["letter"] + losses["code"] + losses["spelling"]


def train_vision(run: Run, settings: Settings, seed: int = 1) -> None:
    """Trains until the run's budget is spent and leaves its checkpoint: `model`, `head`, `optimizers`."""
    settings.apply()
    model = new_model(model_config(vocabulary_size(), special_ids()), seed, settings.device)
    head = LetterHead(model.config.vision_config.hidden_size).to(settings.device)
    oracle = Oracle(TEXT_HIDDEN).to(settings.device)
    visual = [(n, p) for n, p in model.named_parameters() if ".visual." in n and "deepstack" not in n]
    optimizers = Optimizers([*visual, *head.named_parameters()], MUON_RATE, ADAM_RATE)
    parts = {"model": model, "head": head}
    restore(run, parts, optimizers)

    def losses_of(batch: ImageBatch) -> dict[str, Tensor]:
        losses = reading_losses(model, oracle, head, batch)
        return {"total": reading_total(losses), **losses}

    source = batches(Screens(seed, run.step, settings.scale, settings.pages, settings.free), settings)
    train(run, settings, parts, optimizers, source, losses_of)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--budget-s", type=float, default=2400)
    add_settings(parser)
    options = parser.parse_args()
    train_vision(Run(options.folder, options.budget_s), settings_of(options))
