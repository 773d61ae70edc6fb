"""The likeliest tokens of an int4 LM head, scored again with its finer copy, the int8 embedding table."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_runtime.engine.sampling import largest
from edge_runtime.model.embeddings import TokenEmbeddings

NUM_CANDIDATES = 64
"""Tokens that are always scored again: greedy decoding, log-probabilities and usual sampling see no others. A tenth of
a millisecond a token."""
MAX_CANDIDATES = 1024
"""Tokens that are scored again at most, for a top-k that wants more: some two milliseconds a token."""


class Rescorer:
    """Halves what a decode step reads of the head and keeps int8 accuracy where it counts (decision 32)."""

    def __init__(self, embeddings: TokenEmbeddings) -> None:
        self._embeddings = embeddings

    def __call__(self, logits: NDArray[np.float32], hidden: NDArray[np.float32], num_candidates: int = 0) -> None:
        """Replace the `num_candidates` largest of `logits` [V], in place, given the final hidden state [D].

        Never fewer than `NUM_CANDIDATES`, never more than `MAX_CANDIDATES`; the others keep the head's own scores.
        """
        ids = largest(logits, min(max(num_candidates, NUM_CANDIDATES), MAX_CANDIDATES))
        logits[ids] = self._embeddings.lookup(ids) @ hidden
