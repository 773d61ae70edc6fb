"""From the engine's tokens to actions: marks that are tokens of their own are in the text that is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from edge_kernels.library import KernelLibrary
from edge_runtime import actions
from edge_runtime.engine.events import Failed
from edge_runtime.engine.request import GenerationRequest
from edge_runtime.model.conversation import ImagePart, Message, TextPart
from tests.engine.tiny_engine import engine_of


@pytest.mark.filterwarnings("ignore::edge_runtime.errors.SmallImageWarning")
@pytest.mark.parametrize("name", ["qwen_mobile_use", "ui_venus_point"])
def test_what_random_weights_say_is_an_action(tiny_bundle_edge: Path, kernel_library: KernelLibrary, name: str) -> None:
    engine = engine_of(tiny_bundle_edge, kernel_library)
    known = Tokenizer.from_file(str(tiny_bundle_edge / "tokenizer.json"))
    special = [token.content for token in known.get_added_tokens_decoder().values()]
    pixels = np.zeros((64, 96, 3), np.uint8)
    message = Message("user", (ImagePart(pixels), TextPart("Click.")))
    num_read = 0
    for seed in range(8):
        request = GenerationRequest(
            "r", (message,), lark=actions.get(name).grammar(special), max_tokens=200, temperature=1.0, seed=seed
        )
        *_, ended = engine.generate(request)
        assert not isinstance(ended, Failed), ended
        if ended.finish_reason == "stop":
            (action,) = ended.actions(name)
            assert action.point is None or (0 <= action.point[0] < 96 and 0 <= action.point[1] < 64)
            num_read += 1
    assert num_read > 0
