"""The packages that an extra brings, looked at before anything needs them. Knows nothing of what they do."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from importlib import import_module, metadata
from importlib.util import find_spec

from edge_export.errors import MissingPackage

DISTRIBUTION = "edge-runtime"

EXPORT_PACKAGES = ("ml_dtypes", "onnx", "onnx_ir", "safetensors")
"""Without these there is no export. `huggingface_hub`, of the same extra, is asked for with a hub id only."""


def require_packages(names: Sequence[str] = EXPORT_PACKAGES, extra: str = "export") -> None:
    """Import the packages. Raises `MissingPackage`: for all that are not installed, or the first that is broken."""
    missing = [name for name in names if not _is_installed(name)]
    if missing:
        raise MissingPackage(
            f"{', '.join(missing)} cannot be imported, and there is no {extra} without; "
            f"install the extra {DISTRIBUTION}[{extra}]: {install_command(extra)}"
        )
    for name in names:
        _import(name, extra)


def install_command(extra: str, *options: str) -> str:
    """The pip command, ready to be pasted, that brings what `extra` names into the environment that runs this.

    Package by package, as edge-runtime's metadata has them: that works for an install from a wheel or folder, too,
    and asks no index for a package of our name.
    """
    return shlex.join([sys.executable, "-m", "pip", "install", *options, *_requirements(extra)])


def _import(name: str, extra: str) -> None:
    try:
        import_module(name)
    except Exception as error:  # what a broken package raises is up to it
        said = " ".join(str(error).split())[:300]
        raise MissingPackage(
            f"{name} is installed, but cannot be imported ({type(error).__name__}: {said}); "
            f"install it again: {install_command(extra, '--force-reinstall')}"
        ) from error


def _requirements(extra: str) -> list[str]:
    try:
        declared = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        declared = []
    of_extra = re.compile(rf"""extra\s*==\s*['"]{extra}['"]""")
    found = [line.partition(";")[0].strip() for line in declared if of_extra.search(line)]
    return found or [f"{DISTRIBUTION}[{extra}]"]


def _is_installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):  # of a parent package that is not there, or of a module without a spec
        return False
