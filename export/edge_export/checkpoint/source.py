"""SOURCE to a local folder, and what the model there is called. Knows nothing of what it is.

`pocket` is the model that ships; what is no folder is an id on the Hugging Face hub.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from edge_export.checkpoint.json_file import JsonObject
from edge_export.errors import SourceError
from edge_export.packages import require_packages
from edge_runtime.errors import BundleError
from edge_runtime.model.pocket import NAME, checkpoint

WANTED_FILES = ["*.json", "*.safetensors", "*.jinja", "LICENSE*", "README.md"]

MAX_LENGTH = 100
MAX_FRONT_MATTER_BYTES = 1 << 16

_NAMELESS = re.compile(
    r"(weights?|models?|checkpoints?|ckpts?|snapshots?|outputs?|results?|merged|final|best|last|latest|hf|exports?|"
    r"(checkpoint|ckpt|epoch|step|global_step|run)[-_]?\d+|v?\d[\d.]*|)",
    re.IGNORECASE,
)
"""Folder names that say what is in them and not which model it is."""

_CARD_NAME = re.compile(r"^model_name:[ \t]*(.+)$", re.MULTILINE)


def resolve_source(source: str) -> Path:
    """The folder of a checkpoint, downloaded first (into huggingface_hub's cache) where `source` is a hub id.

    Raises `SourceError` if it is neither.
    """
    if source == NAME:
        return _pocket()
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if path.exists() or source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise SourceError(
            f"{source} is not a folder; give a checkpoint folder, a hub id such as Qwen/Qwen3-VL-2B-Instruct, or "
            f"{NAME}, the model that ships"
        )
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # before the import: it asks for files, and tells no more
    require_packages(("huggingface_hub",))
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - slow to import, and needed only here
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError  # noqa: PLC0415

    try:
        return Path(snapshot_download(source, allow_patterns=WANTED_FILES))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise SourceError(
            f"{source} is not a folder, and the hub did not give a model of that name ({type(error).__name__}: "
            f"{str(error).splitlines()[0]}); check the name and the connection, or give a local folder"
        ) from error


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


def _pocket() -> Path:
    try:
        return checkpoint()
    except BundleError as error:
        raise SourceError(str(error)) from error


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
