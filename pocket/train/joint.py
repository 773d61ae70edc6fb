"""Phase 3: eye and tongue together, on pixels. The dense losses stay, so that reading keeps improving.

The vision tower of phase 1 already speaks the code that the language model of phase 2 was taught, so this begins with
answers that are nearly right; what is left is to get used to each other's mistakes.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import Qwen3VLForConditionalGeneration

from pocket.train.chats import Chats, ScreenChats
from pocket.train.config import TEXT_HIDDEN, model_config
from pocket.train.copying import hold_copies
from pocket.train.heads import LetterHead, code_loss
from pocket.train.language import answer_losses, language_total
from pocket.train.loop import Settings, add_settings, batches, restore, settings_of, train
from pocket.train.network import encode_images, new_model
from pocket.train.optimizer import Optimizers
from pocket.train.oracle import Oracle
from pocket.train.run import Run
from pocket.train.tokenizer import special_ids, vocabulary_size

FAINT = 0.1  # of the answers' gradient reaches the vision tower
SMALL = 0.6  # share of batches about small screens
MUON_RATE, ADAM_RATE = 0.01, 1e-3


def start(vision: Path, language: Path) -> tuple[Qwen3VLForConditionalGeneration, Oracle, LetterHead]:
    """The model put together from the first two phases' checkpoints, with DeepStack taps that begin as zero."""
    model, oracle, head = _parts()
    eye = torch.load(vision, map_location="cpu", weights_only=True)
    tongue = torch.load(language, map_location="cpu", weights_only=True)
    model.load_state_dict({n: (eye if ".visual." in n else tongue)["model"][n] for n in model.state_dict()})
    head.load_state_dict(eye["head"])
    oracle.load_state_dict(tongue["oracle"])
    for tap in model.model.visual.deepstack_merger_list:
        nn.init.zeros_(tap.linear_fc2.weight)
    return model, oracle, head


def _parts() -> tuple[Qwen3VLForConditionalGeneration, Oracle, LetterHead]:
    model = new_model(model_config(vocabulary_size(), special_ids()), seed=3)
    return model, Oracle(TEXT_HIDDEN), LetterHead(model.config.vision_config.hidden_size)


def joint_losses(
    model: Qwen3VLForConditionalGeneration, oracle: Oracle, head: LetterHead, batch: ScreenChats
) -> dict[str, Tensor]:
    """The losses of all three phases on one batch."""
    if batch.images is None:
        raise ValueError("joint training needs painted screens: make Chats with pixels=True")
    patches, deepstack, tokens = encode_images(model, batch.images)
    answers = answer_losses(model, oracle, batch, _faintly(tokens), deepstack)
    eye = head.losses(patches, batch.labels)
    return {**answers, **eye, "code": code_loss(tokens, oracle(batch.labels), batch.labels)}


def _faintly(tokens: Tensor) -> Tensor:
    """The same values; little of the gradient passes, or answers undo what the tower has learned to read."""
    return tokens.detach() + FAINT * (tokens - tokens.detach())


def train_joint(run: Run, settings: Settings, vision: Path, language: Path) -> None:
    """Trains until the run's budget is spent, starting from two checkpoints; leaves one with all parts."""
    settings.apply()
    model, oracle, head = _parts() if run.checkpoint.exists() else start(vision, language)
    parts: dict[str, nn.Module] = {"model": model, "oracle": oracle, "head": head}
    for part in parts.values():
        part.to(settings.device)
    named = [*model.named_parameters(), *oracle.named_parameters(), *head.named_parameters()]
    optimizers = Optimizers(named, MUON_RATE, ADAM_RATE)
    restore(run, parts, optimizers)

    def losses_of(batch: ScreenChats) -> dict[str, Tensor]:
        hold_copies(model)
        losses = joint_losses(model, oracle, head, batch)
        total = language_total(losses) + losses["letter"] + losses["code"]
        return {"total": total, **losses}

    source = batches(Chats(4, run.step, 8 * settings.scale, True, SMALL, settings.pages, settings.free), settings)
    train(run, settings, parts, optimizers, source, losses_of)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--vision", type=Path, required=True, help="checkpoint of phase 1")
    parser.add_argument("--language", type=Path, required=True, help="checkpoint of phase 2")
    parser.add_argument("--budget-s", type=float, default=3000)
    add_settings(parser)
    options = parser.parse_args()
    train_joint(Run(options.folder, options.budget_s), settings_of(options), options.vision, options.language)
