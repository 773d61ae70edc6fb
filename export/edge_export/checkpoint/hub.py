"""SOURCE to a local folder: `pocket` is the model that ships, what is no folder an id on the Hugging Face hub."""

from __future__ import annotations

import os
from pathlib import Path

from edge_export.errors import SourceError
from edge_export.packages import require_packages
from edge_runtime.errors import BundleError
from edge_runtime.model.pocket import NAME, checkpoint

WANTED_FILES = ["*.json", "*.safetensors", "*.jinja", "LICENSE*", "README.md"]


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


def _pocket() -> Path:
    try:
        return checkpoint()
    except BundleError as error:
        raise SourceError(str(error)) from error
