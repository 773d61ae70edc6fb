"""Where the joint phase begins: with the checkpoints of the first two phases, or with weights that were exported."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import Qwen3VLForConditionalGeneration

from pocket.train.config import TEXT_HIDDEN, model_config
from pocket.train.heads import LetterHead
from pocket.train.network import new_model
from pocket.train.oracle import Oracle
from pocket.train.tokenizer import special_ids, vocabulary_size


@dataclass(frozen=True, slots=True)
class Parts:
    """The model, and what is thrown away after training: the code with its probe, and the letter head."""

    model: Qwen3VLForConditionalGeneration
    oracle: Oracle
    head: LetterHead


class Beginning(Protocol):
    """Makes the parts of a new run.

    For the first `settle_steps` only the throw-away parts are to learn; `rate` is a factor on the learning rates.
    """

    @property
    def settle_steps(self) -> int: ...  # noqa: D102

    @property
    def rate(self) -> float: ...  # noqa: D102

    def parts(self) -> Parts: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Assembled:
    """The eye of one checkpoint and the tongue of another, with DeepStack taps that begin as zero."""

    vision: Path
    language: Path
    settle_steps: int = 0
    rate: float = 1.0

    def parts(self) -> Parts:
        """Everything has been trained already."""
        parts = fresh_parts()
        eye = torch.load(self.vision, map_location="cpu", weights_only=True)
        tongue = torch.load(self.language, map_location="cpu", weights_only=True)
        names = parts.model.state_dict()
        parts.model.load_state_dict({n: (eye if ".visual." in n else tongue)["model"][n] for n in names})
        parts.head.load_state_dict(eye["head"])
        parts.oracle.load_state_dict(tongue["oracle"])
        for tap in parts.model.model.visual.deepstack_merger_list:
            nn.init.zeros_(tap.linear_fc2.weight)
        return parts


@dataclass(frozen=True, slots=True)
class TakenUp:
    """Weights as `pocket.train.export` wrote them. They hold no throw-away parts: those learn first, by themselves."""

    weights: Path
    settle_steps: int = 100
    rate: float = 0.4  # the full rate first undoes what is known

    def parts(self) -> Parts:
        """The model as it was, in float32 again. Raises `RuntimeError` when the file holds another architecture."""
        parts = fresh_parts()
        tensors = load_file(self.weights / "model.safetensors")
        tensors["lm_head.weight"] = tensors["model.language_model.embed_tokens.weight"]  # tied: stored once
        parts.model.load_state_dict(tensors)
        return parts


def fresh_parts() -> Parts:
    """Untrained, as every run starts before weights are put in."""
    model = new_model(model_config(vocabulary_size(), special_ids()), seed=3)
    return Parts(model, Oracle(TEXT_HIDDEN), LetterHead(model.config.vision_config.hidden_size))
