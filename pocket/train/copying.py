"""Attention heads that are copies: what `FIND` and `READ` look at comes back as it is, in the oracle's own code.

Where to look is learned (`gaze.py`). That what stands there has to be copied, letter by letter and column by column,
would have to be learned after that and took far longer; so these parts of the value and output matrices are given.
"""

import torch
from transformers import Qwen3VLForConditionalGeneration

from pocket.screens.labels import COLUMNS
from pocket.train.gaze import FIND, FIND_HEADS, READ
from pocket.train.oracle import ATTRIBUTES, CODE


def hold_copies(model: Qwen3VLForConditionalGeneration, find_gain: float = 1.0, read_gain: float = 1.6) -> None:
    """Sets the heads of both layers, in place; after every step, or training noise wears them off.

    A gain is how long a copy is beside what it was copied from.
    A head of `FIND` copies an element's attributes to where they stand in an image token; head `c` of `READ` the letter
    in column `c` to every column, which is how letters are embedded and so what the LM head knows as that letter.
    """
    layers = model.model.language_model.layers
    with torch.no_grad():
        attn = layers[FIND].self_attn
        count = ATTRIBUTES.stop - ATTRIBUTES.start
        _set(attn.v_proj.weight[:count], ATTRIBUTES, torch.eye(count))
        for head in range(FIND_HEADS):
            out = attn.o_proj.weight[:, head * attn.head_dim : head * attn.head_dim + count]
            out[:] = 0
            out[ATTRIBUTES] = torch.eye(count) * (find_gain / FIND_HEADS)
        attn = layers[READ].self_attn
        for column in range(COLUMNS):
            head, half = divmod(column, attn.num_key_value_groups)
            rows = slice(head * attn.head_dim + half * CODE, head * attn.head_dim + (half + 1) * CODE)
            _set(attn.v_proj.weight[rows], slice(column * CODE, (column + 1) * CODE), torch.eye(CODE))
            start = column * attn.head_dim
            attn.o_proj.weight[:, start : start + attn.num_key_value_groups * CODE] = 0
            out = attn.o_proj.weight[:, start + half * CODE : start + (half + 1) * CODE]
            out[: COLUMNS * CODE] = torch.eye(CODE).repeat(COLUMNS, 1) * read_gain


def _set(rows: torch.Tensor, columns: slice, values: torch.Tensor) -> None:
    rows[:] = 0
    rows[:, columns] = values
