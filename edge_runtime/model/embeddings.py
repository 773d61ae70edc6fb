"""The token embedding table, mapped from its file: only the rows that are asked for are ever read."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import BundleError
from edge_runtime.model.manifest import EmbeddingTable, Manifest

_INT8_ZERO_POINT = 128
_GROUP = 16
"""Rows side by side in the layout "packed"."""


class TokenEmbeddings:
    """Rows of `inputs_embeds` by token id."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        """Map the table that `manifest.embedding` names. Raises `BundleError` if its file is too short for it."""
        self._table: EmbeddingTable = manifest.embedding
        self._format = manifest.quantization.embedding
        text = manifest.architecture.text
        self._shape = (text.vocab_size, text.hidden_size)
        data = folder / self._table.file
        if self._format.weights == "fp32":
            self._rows = _map(data, np.dtype("<f4"), self._table.data_offset, self._shape)
            self._scales = None
        elif self._format.weights == "int8":
            if self._table.scale_file is None or self._table.scale_offset is None or not self._format.block_size:
                raise BundleError(f"{folder}: an int8 embedding table needs scales and a block size; export it again")
            block = self._format.block_size
            scales = folder / self._table.scale_file
            blocks = -(-text.hidden_size // block)
            if self._table.layout == "rows":
                self._rows = _map(data, np.dtype("u1"), self._table.data_offset, self._shape)
                self._scales = _map(scales, np.dtype("<f4"), self._table.scale_offset, (text.vocab_size, blocks))
            else:  # four inputs of one row side by side, then those of the next: gathered as words
                groups = -(-text.vocab_size // _GROUP)
                words = (groups, blocks * block // 4, _GROUP)
                self._rows = _map(data, np.dtype("<u4"), self._table.data_offset, words)
                self._scales = _map(scales, np.dtype("<f2"), self._table.scale_offset, (groups, blocks, _GROUP))
        else:
            raise BundleError(
                f"{folder}: an {self._format.weights} embedding table is not supported; export with an int8 or fp32 one"
            )

    def lookup(self, token_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Embedding rows [T, D] of `token_ids` [T]: a fresh float32 array.

        Raises `BundleError` for an id that the vocabulary does not have: its tokenizer is another model's.
        """
        if len(token_ids) and not 0 <= token_ids.min() <= token_ids.max() < self._shape[0]:
            raise BundleError(
                f"the tokenizer gave a token {int(token_ids.max())}, the model's vocabulary has {self._shape[0]}; "
                "export the bundle again"
            )
        rows, scales = self._rows, self._scales
        if scales is None:
            return np.array(rows[token_ids], dtype=np.float32)
        width, block = self._shape[1], self._format.block_size or self._shape[1]
        if self._table.layout == "rows":
            rows, scales = rows[token_ids], scales[token_ids]
        else:
            group, column = np.divmod(token_ids, _GROUP)
            rows = rows[group, :, column].view(np.uint8)  # [T, D in whole blocks]
            scales = scales[group, :, column]
        factors = np.repeat(scales.astype(np.float32), block, axis=1)[:, :width]
        return np.asarray((rows[:, :width].astype(np.float32) - _INT8_ZERO_POINT) * factors, dtype=np.float32)


def _map(path: Path, dtype: np.dtype, offset: int, shape: tuple[int, ...]) -> np.ndarray:
    needed = offset + math.prod(shape) * dtype.itemsize
    size = path.stat().st_size
    if size < needed:
        raise BundleError(
            f"{path} has {size} bytes, the embedding table needs {needed}; copy or export the bundle again"
        )
    return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape)
