"""The output folder: written in a work folder beside its place, and renamed into that when it is complete.

Removes nothing that an export did not make: not what lies beside OUT, whatever it is called, and not what appears at
OUT meanwhile; `force` replaces a bundle, and nothing else. The manifest is the last file written, so what a killed run
leaves is no bundle. Knows nothing of what is in the files.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from edge_export.errors import ConfigError, DiskFull, ExportError, OptionError, OutputExists
from edge_export.moving import rename_new, sync_folder
from edge_export.tensor_file import HashedFile, is_full
from edge_export.work_folder import WorkFolder, listed_names, remove_leftovers
from edge_runtime.devices.memory import format_bytes
from edge_runtime.errors import BundleError
from edge_runtime.model.manifest import MANIFEST_NAME, FileEntry, Manifest, encode_manifest


class BundleWriter:
    """A bundle under construction in `folder`. Leaving the `with` block without `commit` removes it.

    Raises `OutputExists` if OUT is there and may not be replaced or is being written already, `DiskFull` if there is
    not room for `needed_bytes`, `OptionError` where nothing can be written.
    """

    def __init__(self, out: Path, *, force: bool, needed_bytes: int) -> None:
        check_out(out, force=force)
        self.out = out.absolute()
        self._force = force
        self._files: list[HashedFile] = []
        self._parents = [parent for parent in self.out.parents if not parent.exists()]  # innermost first
        with _translated(self.out):
            remove_leftovers(self.out)
            check_out(self.out, force=force)  # again: a bundle may have been put back
            self._before = _identity(self.out)
            try:
                self.out.parent.mkdir(parents=True, exist_ok=True)
                _check_room(self.out.parent, needed_bytes)
                self._work = WorkFolder(self.out)
            except BaseException:
                self._remove_parents()
                raise

    @property
    def folder(self) -> Path:
        """Where the files are, until `commit`."""
        return self._work.bundle

    def __enter__(self) -> BundleWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._work.remove()
        self._remove_parents()
        if isinstance(error, OSError) and is_full(error):
            raise _as_export_error(error, self.out) from error

    def open_file(self, name: str) -> HashedFile:
        """A new file of the bundle, to be used as a context manager. Raises `DiskFull`."""
        with _translated(self.out):
            file = HashedFile(self.folder / name)
        self._files.append(file)
        return file

    def write_file(self, name: str, data: bytes) -> None:
        """A new file of the bundle, given whole. Raises `DiskFull`."""
        with self.open_file(name) as file:
            file.write(data)

    @property
    def entries(self) -> dict[str, FileEntry]:
        """Size and hash of every file written so far."""
        return {file.path.name: file.entry for file in self._files if file.entry is not None}

    def commit(self, manifest: Manifest) -> None:
        """Write the manifest, which makes the folder a bundle, and put it in its place; an older one gives way.

        After it, the bundle is on the disk. Raises `ConfigError` for a manifest that the runtime would refuse,
        `DiskFull`, and `OutputExists` if OUT is not what it was at the start: the bundle is then kept beside it.
        """
        try:
            encoded = encode_manifest(manifest)
        except BundleError as error:
            raise ConfigError(f"the runtime would refuse this bundle: {error}; correct the checkpoint") from error
        with HashedFile(self.folder / MANIFEST_NAME) as file:
            file.write(encoded)
        with _translated(self.out):
            sync_folder(self.folder)
            try:
                self._put_in_place()
            except (FileExistsError, OutputExists) as error:
                raise OutputExists(
                    f"{self.out} was made or changed by somebody else while the export ran, and was left alone; the "
                    f"finished bundle is {self._work.keep_bundle()}"
                ) from error
            for parent in (self.out.parent, *(parent.parent for parent in self._parents)):
                with suppress(OSError):  # the bundle stands, whole and on the disk: it is its name that may not be
                    sync_folder(parent)
        self._parents = []

    def _put_in_place(self) -> None:
        if _identity(self.out) != self._before:
            raise OutputExists(f"{self.out} is not what it was")
        check_out(self.out, force=self._force)
        try:
            if self._before is not None:
                rename_new(self.out, self._work.replaced)
            rename_new(self.folder, self.out)
        except BaseException:
            if self.folder.exists():  # the new one does not stand, so the old one shall
                self._work.put_back()
            raise

    def _remove_parents(self) -> None:
        """Take away the folders made for OUT, unless there is something in them."""
        for parent in self._parents:
            with suppress(OSError):
                parent.rmdir()


def check_out(out: Path, *, force: bool) -> None:
    """Say before any work what is wrong with OUT. Raises `OutputExists`, or `OptionError` where nothing can be made."""
    with _translated(out):
        if out.name in ("", ".."):
            _refuse_existing(out)
            raise OptionError(f"{out} does not name a new folder; give another OUT")
        if os.path.lexists(out):
            _check_replaceable(out, force=force)
        parent = next(parent for parent in out.absolute().parents if os.path.lexists(parent))
        if not parent.is_dir():
            raise OptionError(f"cannot write {out}: {parent} is not a folder; give another OUT")
        if not os.access(parent, os.W_OK | os.X_OK):
            raise OptionError(
                f"cannot write {out}: {parent} may not be written to; give another OUT, or get the rights to"
            )


def _refuse_existing(out: Path) -> None:
    if os.path.lexists(out):
        raise OutputExists(f"{out} exists already; give another OUT")


def _check_replaceable(out: Path, *, force: bool) -> None:
    advice = "so --force does not replace it; give another OUT"
    if not force:
        raise OutputExists(f"{out} exists already; give another OUT, or --force to replace it if it is a bundle")
    if out.is_symlink():
        raise OutputExists(f"{out} is a link to {out.readlink()}, {advice}, or what it links to")
    if out.is_mount():
        raise OutputExists(f"{out} is a mount point, {advice}, such as {out / 'bundle'}")
    if out.is_dir() and not any(out.iterdir()):
        return
    names = listed_names(out) if out.is_dir() else None
    if names is None:
        raise OutputExists(f"{out} exists and is not a bundle, {advice}, or remove it yourself")
    others = sorted({path.name for path in out.iterdir()} - names)
    if others:
        raise OutputExists(f"{out} holds {', '.join(others[:5])} besides a bundle, {advice}, or move that away")


def _identity(out: Path) -> tuple[int, int, int] | None:
    """What changes if somebody puts another folder at OUT, or changes what is in it; None where there is nothing."""
    try:
        status = os.lstat(out)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns


@contextmanager
def _translated(out: Path) -> Iterator[None]:
    """Turn what the system says against OUT, or a file in it, into our error."""
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise _as_export_error(error, out) from error


def _as_export_error(error: OSError | ValueError, out: Path) -> ExportError:
    if not isinstance(error, OSError):
        return OptionError(f"cannot write {str(out)!r}: {error}; give another OUT")
    if is_full(error):
        return DiskFull(f"the disk is full while writing {error.filename or out}; free some room, or give another OUT")
    return OptionError(f"cannot write {out}: {error.strerror or error}; give another OUT")


def _check_room(folder: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise DiskFull(
            f"{folder} has {format_bytes(free)} free, the bundle needs {format_bytes(needed_bytes)}; free some room, "
            "or give an OUT on another disk"
        )
