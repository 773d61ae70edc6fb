"""Licence and model card of a checkpoint, which go along with its bundle. Knows nothing of what they say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edge_export.checkpoint.shards import Warn
from edge_runtime.model.manifest import COMPANIONS

MAX_BYTES = 1 << 24


def companion_files(folder: Path, warn: Warn) -> Iterator[Path]:
    """The files of `COMPANIONS` in `folder`; `warn` is told of those that do not go along.

    A link that leads out of the folder is not followed, unless into the hub's cache: bundles are handed on, and a
    stranger's archive could name any file of this machine as its licence.
    """
    for path in (folder / name for name in COMPANIONS):
        if not path.is_file():
            continue
        if path.is_symlink() and not _lies_in(path.resolve(), folder.resolve()):
            warn(f"{path.name} is a link to {path.resolve()}, outside the checkpoint; it is not copied into the bundle")
        elif path.stat().st_size > MAX_BYTES:
            warn(f"{path.name} has more than {MAX_BYTES >> 20} MiB; it is not copied into the bundle")
        else:
            yield path


def _lies_in(target: Path, folder: Path) -> bool:
    cached = folder.parent.name == "snapshots" and target.is_relative_to(folder.parents[1] / "blobs")
    return cached or target.is_relative_to(folder)
