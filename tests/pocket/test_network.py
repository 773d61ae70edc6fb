"""The recipe's own forward pass is transformers', and what it exports is the same model in every runtime."""

# ruff: noqa: E402 - what needs torch is imported after the check that it is there

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is missing: make parity")
pytest.importorskip("transformers", reason="transformers is missing: make parity")

from edge_export.options import ExportOptions
from edge_export.pipeline import export_bundle
from pocket.eval.bundle_model import BundleModel
from pocket.eval.case import Messages
from pocket.eval.transformers_model import TransformersModel
from pocket.screens.questions import Turn
from pocket.train.config import model_config
from pocket.train.conversations import NO_LOSS, Chat, build_chat, stack_chats
from pocket.train.export import export
from pocket.train.network import decode, encode_images, new_model, to_patches
from pocket.train.tokenizer import load, special_ids, vocabulary_size
from tests.conftest import NoProgress

pytestmark = pytest.mark.parity

QUESTION: Messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Where is Pay?"}]}]


@pytest.fixture(scope="module")
def model() -> Any:
    """Random weights, large enough that every layer matters and that answers are not one token over and over."""
    fresh: Any = new_model(model_config(vocabulary_size(), special_ids()), seed=1)
    with torch.no_grad():
        for name, parameter in fresh.named_parameters():
            if "deepstack" in name or "merger.linear_fc2" in name:
                parameter.normal_(std=0.05)
            elif "language_model.layers" in name and parameter.ndim == 2:
                parameter.normal_(std=0.15)
    return fresh.eval()


@pytest.fixture
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def checkpoint(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights as `python -m pocket.train.export` writes them."""
    folder = tmp_path_factory.mktemp("pocket")
    torch.save({"model": model.state_dict()}, folder / "last.pt")
    export(folder / "last.pt", folder / "weights")
    return folder / "weights"


@pytest.mark.usefixtures("no_grad")
def test_forward_equals_transformers(model: Any) -> None:
    images = torch.randint(0, 256, (1, 96, 160, 3), dtype=torch.uint8)
    chat = Chat()
    position = chat.text("<|im_start|>user\n", 0, 0, learn=False)
    position = chat.image(3, 5, position)
    chat.text("Where is Pay?<|im_end|>", position, 0, learn=False)
    ids = torch.tensor([chat.ids])
    pictured = ids == special_ids()["<|image_pad|>"]

    _, taps, tokens = encode_images(model, images)
    embeds = model.model.language_model.embed_tokens(ids)
    where = pictured[..., None].expand_as(embeds)
    embeds = embeds.masked_scatter(where, tokens)
    deepstack = [torch.zeros_like(embeds).masked_scatter(where, tap) for tap in taps]
    mask = torch.ones(len(chat.ids), len(chat.ids), dtype=torch.bool).tril()[None, None]
    hidden, _ = decode(model, embeds, deepstack, torch.tensor(chat.positions).T[:, None], mask)
    ours = hidden @ model.model.language_model.embed_tokens.weight.T

    patches = to_patches(images)[0].view(-1, 3, 1, 16, 16).expand(-1, 3, 2, 16, 16).reshape(-1, 1536)
    theirs = model(
        input_ids=ids,
        pixel_values=patches,
        image_grid_thw=torch.tensor([[1, 6, 10]]),
        attention_mask=torch.ones_like(ids),
    ).logits
    assert theirs.abs().max() > 1
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)


def test_training_chats_are_what_the_template_writes(checkpoint: Path) -> None:
    from random import Random

    from transformers import AutoTokenizer

    from pocket.screens.screen import Screen

    turns = [Turn("kind", "What is Pay?", "button"), Turn("kind", "What is Tea?", "item")]
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is Pay?"}]},
        {"role": "assistant", "content": "button"},
        {"role": "user", "content": "What is Tea?"},
        {"role": "assistant", "content": "item"},
    ]
    load_tokenizer: Any = AutoTokenizer.from_pretrained
    tokenizer = load_tokenizer(checkpoint)
    template = tokenizer.apply_chat_template(messages, tokenize=False).replace("<|image_pad|>", "<|image_pad|>" * 2)
    chains = 0
    for seed in range(20):  # some are fans: every question as if it were the first
        chat = build_chat(Random(seed), turns, [Screen(64, 32)], thinking=0.0)
        batch = stack_chats([chat])
        learned = [index for index in batch.labels[0].tolist() if index != NO_LOSS]
        assert load().decode(learned, skip_special_tokens=False) == "button<|im_end|>item<|im_end|>"
        if set(chat.segments) == {0}:
            chains += 1
            assert load().decode(chat.ids, skip_special_tokens=False) + "\n" == template
            assert chat.ids + load().encode("\n").ids == tokenizer(template)["input_ids"]
    assert chains


@pytest.mark.parametrize("thought", ["Pay is a button.", ""])
def test_a_thought_begins_where_the_template_opens_it(checkpoint: Path, thought: str) -> None:
    from random import Random

    from transformers import AutoTokenizer

    from pocket.screens.screen import Screen

    load_tokenizer: Any = AutoTokenizer.from_pretrained
    tokenizer = load_tokenizer(checkpoint)
    question = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is Pay?"}]}]
    opened = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True, enable_thinking=True)
    prompt = tokenizer(opened.replace("<|image_pad|>", "<|image_pad|>" * 2), add_special_tokens=False)["input_ids"]
    turn = Turn("kind", "What is Pay?", "button", thought)
    chat = build_chat(Random(0), [turn], [Screen(64, 32)], thinking=1.0)
    assert chat.ids[: len(prompt)] == prompt
    assert (
        load().decode(chat.ids[len(prompt) :], skip_special_tokens=False) == f"{thought}\n</think>\n\nbutton<|im_end|>"
    )


@pytest.mark.parametrize("shape", [(96, 160), (256, 224)])
def test_transformers_and_the_runtime_agree_token_for_token(
    checkpoint: Path, shape: tuple[int, int], tmp_path: Path
) -> None:
    export_bundle(str(checkpoint), tmp_path / "bundle", ExportOptions(weights="fp32"), NoProgress())
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    theirs = TransformersModel(checkpoint, max_tokens=24).token_ids([image], QUESTION)
    ours = BundleModel(tmp_path / "bundle", max_tokens=24).token_ids([image], QUESTION)
    assert ours == theirs
    assert len(set(theirs)) > 1, "a constant answer proves nothing"


def test_wrong_number_of_images_is_an_error(checkpoint: Path) -> None:
    with pytest.raises(ValueError, match="1 image parts but 2 images"):
        image = np.zeros((64, 64, 3), np.uint8)
        TransformersModel(checkpoint, max_tokens=1)([image, image], QUESTION)
