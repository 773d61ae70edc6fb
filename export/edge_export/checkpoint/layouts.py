"""Tensors by names that do not depend on who wrote them.

Canonical names are those of transformers 4.57 and 5.x (`model.visual.`, `model.language_model.`, `lm_head.weight`);
older layouts (`visual.`, `model.`) are found too, and what wrappers of training put into names is taken out. What an
adapter or a quantizer leaves in names is refused. Knows no sizes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from edge_export.checkpoint.safetensors_file import TensorEntry
from edge_export.checkpoint.shards import MERGE_FIRST, Warn
from edge_export.errors import UnknownDtype, UnmergedAdapter, UnusedTensor

VISION_PREFIXES = ("model.visual.", "visual.")
TEXT_PREFIXES = ("model.language_model.", "language_model.model.", "language_model.", "model.")
HEAD_NAMES = ("lm_head.weight", "language_model.lm_head.weight")
"""Layouts of the generations of transformers, the present one first."""

EMBEDDING_NAME = f"{TEXT_PREFIXES[0]}embed_tokens.weight"
HEAD_NAME = HEAD_NAMES[0]

_WRAPPER = re.compile(r"^module\.|(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""What DataParallel, torch.compile, FSDP and activation checkpointing put into names; the tensors are the same."""

_ADAPTER = re.compile(
    r"(?:^|\.)(?:base_model\.model|base_layer|modules_to_save|original_module|prompt_encoder|prompt_embeddings"
    r"|adaption_\w+|trainable_tokens\w*|(?:lora|loha|lokr|ia3|hada|oft|boft|vera|dora|hra|vblora|randlora)_\w+)(?:\.|$)",
    re.IGNORECASE,
)
"""What PEFT's methods, and those of other trainers, add to the names of a model they wrap."""

_QUANTIZED = re.compile(
    r"\.(?:qweight|qzeros|g_idx|scales|weight_(?:packed|scale\w*|zero_point|shape|global_scale|g_idx)|absmax|SCB"
    r"|input_(?:scale|global_scale|zero_point)|weight\.(?:absmax|quant_\w+|nested_\w+))(?:\.|$)"
)
"""What GPTQ, AWQ, compressed-tensors, FP8, ModelOpt and bitsandbytes store beside or in the place of a weight."""


def canonical(stored: Mapping[str, TensorEntry], warn: Warn) -> dict[str, TensorEntry]:
    """The tensors by canonical name; those of no known part keep the names they have.

    Raises `UnmergedAdapter` or `UnknownDtype` for what an adapter or a quantizer left, and `UnusedTensor` where two
    names mean one tensor.
    """
    if marked := [name for name in stored if _ADAPTER.search(name)]:
        raise UnmergedAdapter(
            f"the weights are those of a model with an adapter (such as LoRA) around it: {listed(marked)}; "
            f"the exporter does not apply adapters, so {MERGE_FIRST}"
        )
    if marked := [name for name in stored if _QUANTIZED.search(name)]:
        raise UnknownDtype(
            f"the weights are quantized already: {listed(marked)}; the exporter reads float weights only, so export "
            "from the unquantized checkpoint"
        )
    if wrapped := [name for name in stored if _WRAPPER.search(name)]:
        warn(f"prefixes of a training wrapper were taken out of the names of {listed(wrapped)}")
        stored = _renamed(stored, lambda name: _WRAPPER.sub("", name))
    vision = next((p for p in VISION_PREFIXES if f"{p}pos_embed.weight" in stored), VISION_PREFIXES[0])
    text = next((p for p in TEXT_PREFIXES if f"{p}embed_tokens.weight" in stored), TEXT_PREFIXES[0])

    def rename(name: str) -> str:
        if name in HEAD_NAMES:
            return HEAD_NAME
        if name.startswith(vision):
            return VISION_PREFIXES[0] + name.removeprefix(vision)
        return TEXT_PREFIXES[0] + name.removeprefix(text) if name.startswith(text) else name

    return _renamed(stored, rename)


def listed(names: Iterable[str]) -> str:
    """A few of `names`, and how many there are beyond."""
    some = list(names)
    more = f" and {len(some) - 4} more" if len(some) > 4 else ""
    return ", ".join(some[:4]) + more


def _renamed(entries: Mapping[str, TensorEntry], rename: Callable[[str], str]) -> dict[str, TensorEntry]:
    renamed: dict[str, TensorEntry] = {}
    for name, entry in entries.items():
        if (other := renamed.setdefault(rename(name), entry)) is not entry:
            raise UnusedTensor(
                f"{other.stored_name} and {entry.stored_name} are two tensors for one place in the model; which of "
                "them was trained cannot be told, so save the model again with save_pretrained"
            )
    return renamed
