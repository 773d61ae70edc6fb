"""A folder of installed packages per contender, made once. Knows nothing of models."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from benchmarks.peers.contenders import Contender

REPOSITORY = Path(__file__).resolve().parents[2]
_DONE = "installed.txt"


class NotInstalled(Exception):
    """pip could not install a contender; the message has its last words."""


def python_of(contender: Contender, folder: Path) -> Path:
    """The Python of a contender's environment under `folder`; installs it first if need be. Raises `NotInstalled`."""
    if contender.environment is None:
        return Path(sys.executable)
    home = folder / contender.environment
    python = home / "bin" / "python"
    wanted = "\n".join(contender.requirements)
    done = home / _DONE
    if done.exists() and done.read_text() == wanted:
        return python
    if not python.exists():
        _run([sys.executable, "-m", "venv", str(home)], {})
    _run([str(python), "-m", "pip", "install", "--quiet", *contender.requirements], contender.build_variables)
    done.write_text(wanted)
    return python


def worker_variables() -> dict[str, str]:
    """Environment variables for a worker: it must find what we find and this repository's packages, and call nobody."""
    ours = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    paths = [*ours, *map(str, (REPOSITORY, REPOSITORY / "export", REPOSITORY / "kernels"))]
    quiet = {"ORT_DISABLE_TELEMETRY": "1", **os.environ, "HF_HUB_OFFLINE": "1"}
    return quiet | {"PYTHONPATH": os.pathsep.join(paths)}


def _run(command: list[str], variables: Mapping[str, str]) -> None:
    done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotInstalled(f"{' '.join(command)} failed: {' '.join(done.stderr.split()[-60:])}")
