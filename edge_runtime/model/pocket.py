"""Where the checkpoint lies of the model that ships with the project. The exporter finds it here, too."""

from __future__ import annotations

from pathlib import Path

from edge_runtime.errors import BundleError

NAME = "pocket"
"""What to say instead of a folder; a folder of that name is `./pocket`."""

WEIGHTS = "model.safetensors"


def checkpoint() -> Path:
    """Pocket's Hugging Face checkpoint: in the installed package, or in a checkout. Raises `BundleError`."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "weights", package.parent / NAME / "weights"):
        if (folder / WEIGHTS).is_file():
            return folder
    raise BundleError(f"no {WEIGHTS} of pocket in or beside {package}; install edge-runtime again")
