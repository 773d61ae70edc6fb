"""What a model is called: by its hub id, its folder, its model card or its config. Knows nothing of what it is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from edge_export.checkpoint.json_file import JsonObject
from edge_runtime.model.pocket import NAME

MAX_LENGTH = 100
MAX_FRONT_MATTER_BYTES = 1 << 16

_NAMELESS = re.compile(
    r"(weights?|models?|checkpoints?|ckpts?|snapshots?|outputs?|results?|merged|final|best|last|latest|hf|exports?|"
    r"(checkpoint|ckpt|epoch|step|global_step|run)[-_]?\d+|v?\d[\d.]*|)",
    re.IGNORECASE,
)
"""Folder names that say what is in them and not which model it is."""

_CARD_NAME = re.compile(r"^model_name:[ \t]*(.+)$", re.MULTILINE)


def model_name(source: str, folder: Path, config: JsonObject) -> str:
    """The name of the checkpoint `source`, which lies in `folder`.

    That is the name on the hub, or the folder's. Where that says nothing (`weights`, `checkpoint-500`) it is the model
    card's `model_name`, what the config's `_name_or_path` ends in, or the name of a folder above.
    """
    if source == NAME:
        return NAME
    if not Path(source).expanduser().is_dir():
        return source.rpartition("/")[2]
    folder = folder.resolve()
    if folder.parent.name == "snapshots" and folder.parents[1].name.startswith("models--"):  # the hub's own cache
        return folder.parents[1].name.rpartition("--")[2]
    return next(filter(_is_name, _candidates(folder, config)), folder.name or "model")


def _candidates(folder: Path, config: JsonObject) -> Iterator[str]:
    """The best first; no file is read that need not be."""
    yield folder.name
    yield _card_name(folder / "README.md")
    yield str(config.values.get("_name_or_path") or "").rpartition("/")[2]
    for parent in folder.parents:
        yield parent.name


def _is_name(name: str) -> bool:
    return name.isprintable() and len(name) <= MAX_LENGTH and _NAMELESS.fullmatch(name) is None


def _card_name(card: Path) -> str:
    """`model_name` in the front matter of the model card, as training programs write it; empty where it has none."""
    if not card.is_file():
        return ""
    with card.open("rb") as file:
        text = file.read(MAX_FRONT_MATTER_BYTES).decode(errors="replace")
    front, fence, _ = text.removeprefix("---\n").partition("\n---")
    found = _CARD_NAME.search(front) if fence and text.startswith("---\n") else None
    return found[1].strip().strip("\"'") if found else ""
