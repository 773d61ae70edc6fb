"""What a model is called: by its hub id, its folder, its model card or its config. Knows nothing of what it is."""

from __future__ import annotations

import re
from pathlib import Path

from edge_export.checkpoint.json_file import JsonObject
from edge_runtime.model.pocket import NAME

MAX_LENGTH = 100

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
    path = config.values.get("_name_or_path")
    above = (parent.name for parent in folder.parents)
    candidates = (folder.name, _card_name(folder), str(path).rpartition("/")[2] if path else "", *above)
    return next((name for name in candidates if _is_name(name)), folder.name or "model")


def _is_name(name: str) -> bool:
    return name.isprintable() and len(name) <= MAX_LENGTH and _NAMELESS.fullmatch(name) is None


def _card_name(folder: Path) -> str:
    """`model_name` in the front matter of the model card, as training programs write it; empty where it has none."""
    try:
        card = (folder / "README.md").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
    front, fence = card.removeprefix("---\n"), card.startswith("---\n")
    found = _CARD_NAME.search(front.partition("\n---")[0]) if fence else None
    return found[1].strip().strip("\"'") if found else ""
