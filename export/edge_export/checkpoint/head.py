"""Whether the LM head is the embedding: the weights decide, not the config. Knows no graphs.

transformers 4.57 overwrites a head that the file holds with the embedding where the config says "tied"; 5.x keeps it if
it differs. What was trained is what the file holds.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from edge_export.checkpoint.json_file import JsonObject
from edge_export.checkpoint.layouts import EMBEDDING_NAME, HEAD_NAME, HEAD_NAMES
from edge_export.checkpoint.safetensors_file import ITEM_BYTES, TensorEntry, read_values
from edge_export.checkpoint.shards import Warn
from edge_export.checkpoint.weights import Weights
from edge_export.errors import MissingTensor

PIECE_VALUES = 1 << 20


def settle_head(weights: Weights, config: JsonObject, warn: Warn) -> tuple[bool, Weights]:
    """Whether head and embedding are one; if so, the weights come back without a second copy.

    Raises `MissingTensor` where there is no head and the config does not say that it is the embedding.
    """
    said = tie_flags(config)
    refuse_missing_head(weights.entries, config, weights.shards[0].parent)
    head, embedding = weights.entries.get(HEAD_NAME), weights.entries.get(EMBEDDING_NAME)
    if head is None:
        if False in said:
            warn(
                f"config.json says both true and false for tie_word_embeddings; there is no {HEAD_NAME}, so the "
                "embedding is the head"
            )
        return True, weights
    if embedding is None or not _equal(head, embedding):
        if True in said:
            warn(
                f"{HEAD_NAME} is not the embedding, though config.json says tie_word_embeddings; it is exported as it "
                "is, as a head of its own"
            )
        return False, weights
    return True, Weights({name: e for name, e in weights.entries.items() if name != HEAD_NAME}, weights.shards)


def refuse_missing_head(names: Collection[str], config: JsonObject, folder: Path) -> None:
    """Raise `MissingTensor` if `names` are a whole model's without a head, and the config does not say that it is tied.

    The names may be those of an index alone, so that nobody downloads shards in vain.
    """
    if names and not any(name in names for name in HEAD_NAMES) and True not in tie_flags(config):
        raise MissingTensor(
            f"{folder} has no {HEAD_NAME}, and config.json does not say that the embedding is the head "
            "(tie_word_embeddings). An embedding model, such as Qwen3-VL-Embedding, has no head and answers nothing: "
            "it cannot be exported. For a model that was trained with a tied head, set tie_word_embeddings to true in "
            "config.json; else the weights are incomplete: download them again"
        )


def tie_flags(config: JsonObject) -> set[bool]:
    """What config.json says of `tie_word_embeddings`, at its root and in text_config."""
    places = (config, config.child("text_config"))
    return {place.boolean("tie_word_embeddings") for place in places if "tie_word_embeddings" in place}


def _equal(head: TensorEntry, embedding: TensorEntry) -> bool:
    """Whether all values are the same; a few megabytes in memory, and ends at the first difference."""
    if head.shape != embedding.shape or head.dtype != embedding.dtype or head.dtype not in ITEM_BYTES:
        return False
    for start in range(0, head.size, PIECE_VALUES):
        count = min(PIECE_VALUES, head.size - start)
        # As bytes: a NaN is equal to itself, and is found where the tensor is exported.
        if read_values(head, start, count).tobytes() != read_values(embedding, start, count).tobytes():
            return False
    return True
