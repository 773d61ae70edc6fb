"""The model that ships with the project, under the name `pocket`: its first use exports it to a cache folder.

The export runs as a process of its own (`python -m edge_export`): the runtime imports nothing of the exporter.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import typer

from edge_kernels.library import KernelError, KernelLibrary
from edge_runtime import __version__
from edge_runtime.errors import BundleError

NAME = "pocket"
"""What to say instead of a bundle folder; a folder of that name is `./pocket`."""

_WEIGHTS = "model.safetensors"
_EXPORT_PACKAGES = ("ml_dtypes", "onnx", "onnx_ir", "safetensors")


def bundle_folder(name_or_folder: str) -> Path:
    """The folder of a bundle that a command was given; `pocket` stands for the model that ships with the project.

    Raises `BundleError` if pocket is not there, or has to be exported first and cannot be.
    """
    return pocket_bundle(checkpoint(), cache_folder()) if name_or_folder == NAME else Path(name_or_folder)


def checkpoint() -> Path:
    """Pocket's Hugging Face checkpoint: in the installed package, or in a checkout. Raises `BundleError`."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "weights", package.parent / NAME / "weights"):
        if (folder / _WEIGHTS).is_file():
            return folder
    raise BundleError(f"no {_WEIGHTS} of pocket in or beside {package}; install edge-runtime again")


def cache_folder() -> Path:
    """Where exported bundles are kept: what the system calls its cache, else `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edge-runtime"


def pocket_bundle(source: Path, cache: Path) -> Path:
    """The bundle of the checkpoint `source` under `cache`; exported now, with a word on standard error, if it is new.

    INT4, of flavour `edge` where the kernels are installed. Another version of the program or of the weights is another
    bundle. Raises `BundleError`.
    """
    flavour = "edge" if _kernels_run() else "portable"
    digest = hashlib.sha256((source / _WEIGHTS).read_bytes()).hexdigest()[:12]
    bundle = cache / f"{NAME}-{__version__}-{flavour}-{digest}"
    if (bundle / "manifest.json").is_file():
        return bundle
    missing = [name for name in _EXPORT_PACKAGES if find_spec(name) is None]
    if missing:
        raise BundleError(
            f"pocket must be exported once, and {', '.join(missing)} cannot be imported; "
            "pip install 'edge-runtime[export]', or copy the folder "
            f"{bundle} from a machine that has it"
        )
    typer.secho(f"exporting pocket to {bundle}; this happens once", dim=True, err=True)
    cache.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "edge_export", str(source), str(bundle), "--weights", "int4", "--flavour", flavour]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own program
    if not (bundle / "manifest.json").is_file():  # another process may have been first: that is as good
        raise BundleError(f"exporting pocket to {bundle} failed: {(done.stderr or done.stdout).strip()[-2000:]}")
    return bundle


def _kernels_run() -> bool:
    try:
        KernelLibrary()
    except KernelError:
        return False
    return True
