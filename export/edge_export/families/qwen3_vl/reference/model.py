"""The whole model: a checkpoint, run by this package."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edge_export.families.qwen3_vl.reference.config import read_config
from edge_export.families.qwen3_vl.reference.decoder import decode, embed, lm_head
from edge_export.families.qwen3_vl.reference.ops import Array
from edge_export.families.qwen3_vl.reference.positions import Ints
from edge_export.families.qwen3_vl.reference.preprocess import Patches
from edge_export.families.qwen3_vl.reference.prompt import Prompt, decoder_input
from edge_export.families.qwen3_vl.reference.vision import vision_tower
from edge_export.families.qwen3_vl.reference.weights import Weights


class NumpyReference:
    """Qwen3-VL in numpy, float32, with the weights of `checkpoint` or, if given, others of the same model."""

    def __init__(self, checkpoint: Path, weights: Weights | None = None) -> None:
        self.config = read_config(checkpoint)
        self._weights = Weights(checkpoint) if weights is None else weights
        self._encoded: dict[int, tuple[Patches, tuple[Array, Array]]] = {}

    def vision(self, patches: Patches) -> tuple[Array, Array]:
        """Image embeddings [N/4, D] and DeepStack features [L, N/4, D]; the tower runs once per picture."""
        if id(patches) not in self._encoded:
            self._encoded[id(patches)] = (patches, vision_tower(self._weights, self.config.vision, patches))
        return self._encoded[id(patches)][1]

    def embed(self, input_ids: Ints) -> Array:
        """Embedding rows [T, D]."""
        return embed(self._weights, input_ids)

    def logits(self, prompt: Prompt, answer: Sequence[int]) -> Array:
        """Logits [n + 1, V] that choose each of the n tokens of `answer` after `prompt`, and the token after them.

        Row i sees the prompt and the first i answer tokens, so that its argmax is the greedy token there.
        """
        inputs = decoder_input(self, self.config, prompt, answer)
        hidden = decode(self._weights, self.config.text, inputs)  # [T, D]
        return lm_head(self._weights, hidden[-len(answer) - 1 :])
