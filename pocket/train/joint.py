"""Phase 3: eye and tongue together, on pixels. The dense losses stay, so that reading keeps improving.

The vision tower of phase 1 already speaks the code that the language model of phase 2 was taught, so this begins with
answers that are nearly right; what is left is to get used to each other's mistakes.
"""

import argparse
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from torch import Tensor, nn
from transformers import Qwen3VLForConditionalGeneration

from pocket.train.beginning import Assembled, Beginning, TakenUp, fresh_parts
from pocket.train.chats import Chats, ScreenChats
from pocket.train.copying import hold_copies
from pocket.train.heads import LetterHead
from pocket.train.images import ImageBatch, Screens
from pocket.train.language import answer_losses, language_total
from pocket.train.loop import Settings, add_settings, batches, restore, settings_of, train
from pocket.train.network import encode_images
from pocket.train.optimizer import Optimizers
from pocket.train.oracle import Oracle
from pocket.train.rounding import Rounding
from pocket.train.run import Run
from pocket.train.vision import eye_losses, reading_losses, reading_total

FAINT = 0.1  # of the answers' gradient reaches the vision tower
SMALL = 0.15  # share of batches about small screens
DENSE_EVERY = 4  # one batch in four is a page packed with text, for the tower alone
MUON_RATE, ADAM_RATE = 0.01, 1e-3


def mixed(settings: Settings, step: int) -> Iterator[ScreenChats | ImageBatch]:
    """What the phase is trained on from `step` on: chats, and now and then screens packed with text."""
    dense = step // DENSE_EVERY
    screens = Screens(5, dense, settings.scale, settings.pages, settings.free)
    chats = Chats(4, step - dense, 8 * settings.scale, True, SMALL, settings.pages, settings.free)
    packed, spoken = iter(batches(screens, settings)), iter(batches(chats, settings))
    while True:
        step += 1
        yield next(packed if step % DENSE_EVERY == 0 else spoken)


def joint_losses(
    model: Qwen3VLForConditionalGeneration, oracle: Oracle, head: LetterHead, batch: ScreenChats
) -> dict[str, Tensor]:
    """The losses of all three phases on one batch."""
    if batch.images is None:
        raise ValueError("joint training needs painted screens: make Chats with pixels=True")
    patches, deepstack, tokens = encode_images(model, batch.images)
    answers = answer_losses(model, oracle, batch, _faintly(tokens), deepstack)
    return {**answers, **eye_losses(oracle, head, patches, tokens, batch.labels)}


def _faintly(tokens: Tensor) -> Tensor:
    """The same values; little of the gradient passes, or answers undo what the tower has learned to read."""
    return tokens.detach() + FAINT * (tokens - tokens.detach())


def train_joint(run: Run, settings: Settings, beginning: Beginning) -> None:
    """Trains until the run's budget is spent, from its checkpoint or from `beginning`; leaves one with all parts."""
    settings.apply()
    parts = fresh_parts() if run.checkpoint.exists() else beginning.parts()
    model, oracle, head = parts.model, parts.oracle, parts.head
    modules: dict[str, nn.Module] = {"model": model, "oracle": oracle, "head": head}
    for module in modules.values():
        module.to(settings.device)
    named = [*model.named_parameters(), *oracle.named_parameters(), *head.named_parameters()]
    optimizers = Optimizers(named, MUON_RATE * beginning.rate, ADAM_RATE * beginning.rate)
    restore(run, modules, optimizers)
    rounding = Rounding(model)

    def losses_of(batch: ScreenChats | ImageBatch) -> dict[str, Tensor]:
        model.requires_grad_(run.step >= beginning.settle_steps)
        if isinstance(batch, ImageBatch):  # logged apart from chats, since packed pages are harder to read
            losses = reading_losses(model, oracle, head, batch)
            return {"total": reading_total(losses), **{f"dense_{name}": value for name, value in losses.items()}}
        losses = joint_losses(model, oracle, head, batch)
        return {"total": language_total(losses) + reading_total(losses), **losses}

    def around() -> AbstractContextManager[None]:
        hold_copies(model)
        return rounding.applied()

    train(run, settings, modules, optimizers, mixed(settings, run.step), losses_of, around)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--vision", type=Path, help="checkpoint of phase 1")
    parser.add_argument("--language", type=Path, help="checkpoint of phase 2")
    parser.add_argument("--start", type=Path, help="folder with exported weights to go on from, instead of both")
    parser.add_argument("--budget-s", type=float, default=3000)
    add_settings(parser)
    options = parser.parse_args()
    if options.start is None and (options.vision is None or options.language is None):
        parser.error("say where to begin: --vision and --language, or --start")
    begin = TakenUp(options.start) if options.start else Assembled(options.vision, options.language)
    train_joint(Run(options.folder, options.budget_s), settings_of(options), begin)
