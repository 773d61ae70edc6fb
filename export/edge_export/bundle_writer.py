"""The output folder: written beside its place, renamed into it when it is complete. Knows nothing of what is in it.

OUT.partial-<pid> is being written, OUT.old-<pid> is being replaced. Both are taken away again on any error; what a
killed run left behind, the next export to the same OUT cleans up.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import psutil

from edge_export.errors import DiskFull, OptionError, OutputExists
from edge_export.tensor_file import HashedFile
from edge_runtime.model.manifest import MANIFEST_NAME, FileEntry, Manifest, save_manifest


class BundleWriter:
    """A bundle under construction in `folder`. Leaving the `with` block without `commit` removes it.

    Raises `OutputExists` if OUT is there and may not be replaced, `DiskFull` if there is not room for `needed_bytes`,
    `OptionError` where nothing can be written.
    """

    def __init__(self, out: Path, *, force: bool, needed_bytes: int) -> None:
        self.out = out.absolute()
        self.folder = self.out.with_name(f"{out.name}.partial-{os.getpid()}")
        self._replaced = self.out.with_name(f"{out.name}.old-{os.getpid()}")
        self._files: list[HashedFile] = []
        with _translated(self.out):
            _remove_leftovers(self.out)
            _check_out(self.out, force=force)
            self.out.parent.mkdir(parents=True, exist_ok=True)
            _check_room(self.out.parent, needed_bytes)
            self.folder.mkdir()

    def __enter__(self) -> BundleWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def open_file(self, name: str) -> HashedFile:
        """A new file of the bundle, to be used as a context manager."""
        file = HashedFile(self.folder / name)
        self._files.append(file)
        return file

    def write_file(self, name: str, data: bytes) -> None:
        """A new file of the bundle, given whole."""
        with self.open_file(name) as file:
            file.write(data)

    @property
    def entries(self) -> dict[str, FileEntry]:
        """Size and hash of every file written so far."""
        return {file.path.name: file.entry for file in self._files if file.entry is not None}

    def write_manifest(self, manifest: Manifest) -> None:
        """Write or replace the manifest, which makes the folder a bundle. Raises `DiskFull`."""
        try:
            save_manifest(manifest, self.folder)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise DiskFull(
                    f"the disk is full while writing {self.folder / MANIFEST_NAME}; free some room"
                ) from error
            raise

    def commit(self) -> None:
        """Put the bundle in its place; an older one gives way in the same moment, but for a rename."""
        with _translated(self.out):
            if self.out.exists():
                self.out.rename(self._replaced)
            try:
                self.folder.rename(self.out)
            except OSError:
                if self._replaced.exists():
                    self._replaced.rename(self.out)
                raise
        shutil.rmtree(self._replaced, ignore_errors=True)


@contextmanager
def _translated(out: Path) -> Iterator[None]:
    """Turn what the system says against a folder into our error."""
    try:
        yield
    except OSError as error:
        raise OptionError(f"cannot write {out}: {error.strerror or error}; give another OUT") from error


def _check_out(out: Path, *, force: bool) -> None:
    if not out.exists():
        return
    if not force:
        raise OutputExists(f"{out} exists already; give another OUT, or --force to replace it")
    if not out.is_dir() or (any(out.iterdir()) and not (out / MANIFEST_NAME).is_file()):
        raise OutputExists(f"{out} exists and is not a bundle, so --force does not replace it; remove it yourself")


def _check_room(folder: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise DiskFull(
            f"{folder} has {free / 1e9:.1f} GB free, the bundle needs {needed_bytes / 1e9:.1f} GB; free some room, "
            "or give an OUT on another disk"
        )


def _remove_leftovers(out: Path) -> None:
    """Clean up after runs that were killed: put back what they were replacing, remove what they were writing."""
    for old in _of_dead_runs(out, "old"):
        if out.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.rename(out)
    for partial in _of_dead_runs(out, "partial"):
        shutil.rmtree(partial, ignore_errors=True)


def _of_dead_runs(out: Path, kind: str) -> list[Path]:
    prefix = f"{out.name}.{kind}-"
    found = []
    if out.parent.is_dir():
        for path in out.parent.iterdir():
            pid = path.name.removeprefix(prefix)
            if path.name.startswith(prefix) and pid.isdecimal() and not psutil.pid_exists(int(pid)):
                found.append(path)
    return found
