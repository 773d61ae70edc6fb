"""The joint phase: what it begins with, what it is fed, and what it leaves alone at first."""

# ruff: noqa: E402 - what needs torch is imported after the check that it is there

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is missing: make parity")
pytest.importorskip("transformers", reason="transformers is missing: make parity")

from pocket.train.beginning import Parts, TakenUp, fresh_parts
from pocket.train.export import export
from pocket.train.images import ImageBatch
from pocket.train.joint import DENSE_EVERY, mixed, train_joint
from pocket.train.loop import Settings
from pocket.train.run import Run
from pocket.train.tokenizer import WEIGHTS

pytestmark = pytest.mark.parity

SETTINGS = Settings(device="cpu", threads=1, workers=0, scale=1, pages=None, fonts=None, free=0.0)


@dataclass(frozen=True, slots=True)
class Untrained:
    """A beginning that keeps what it made."""

    made: Parts
    settle_steps: int
    rate: float = 1.0

    def parts(self) -> Parts:
        return self.made


def one_step(folder: Path, beginning: Untrained, spent_s: float = 0.0) -> None:
    """`spent_s` of the budget are gone, and the rest is after one step."""
    train_joint(Run(folder, budget_s=spent_s + 0.01), SETTINGS, beginning)


def test_exported_weights_are_taken_up_as_they_are(tmp_path: Path) -> None:
    made = fresh_parts().model
    torch.save({"model": made.state_dict()}, tmp_path / "last.pt")
    export(tmp_path / "last.pt", tmp_path / "weights")
    taken = TakenUp(tmp_path / "weights").parts().model
    for name, tensor in made.state_dict().items():
        assert torch.equal(taken.state_dict()[name], tensor.bfloat16().float()), name


def test_the_shipped_weights_fit() -> None:
    parts = TakenUp(WEIGHTS).parts()
    assert parts.model.lm_head.weight.data_ptr() == parts.model.model.language_model.embed_tokens.weight.data_ptr()


def test_only_what_is_thrown_away_learns_at_first(tmp_path: Path) -> None:
    parts = fresh_parts()
    model = {name: tensor.clone() for name, tensor in parts.model.state_dict().items()}
    head = {name: tensor.clone() for name, tensor in parts.head.state_dict().items()}
    one_step(tmp_path, Untrained(parts, settle_steps=5))
    saved = torch.load(tmp_path / "last.pt", weights_only=True)
    # hold_copies sets some attention heads before a step, settled or not.
    moved = [n for n, t in saved["model"].items() if not torch.equal(t, model[n]) and "self_attn" not in n]
    assert moved == []
    assert any(not torch.equal(t, head[n]) for n, t in saved["head"].items())

    one_step(tmp_path, Untrained(parts, settle_steps=0), saved["elapsed_s"])  # goes on from the checkpoint
    later = torch.load(tmp_path / "last.pt", weights_only=True)
    assert later["step"] == 2
    assert not torch.equal(
        later["model"]["model.visual.merger.linear_fc1.weight"], model["model.visual.merger.linear_fc1.weight"]
    )


def test_a_run_goes_on_with_the_batches_it_would_have_seen() -> None:
    whole = list(islice(mixed(SETTINGS, 0), DENSE_EVERY + 2))
    assert [isinstance(batch, ImageBatch) for batch in whole] == [False] * (DENSE_EVERY - 1) + [True, False, False]
    for start in (1, DENSE_EVERY):
        batch = next(mixed(SETTINGS, start))
        assert type(batch) is type(whole[start])
        assert torch.equal(batch.labels.chars, whole[start].labels.chars)
