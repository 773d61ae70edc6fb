"""The folder beside OUT that an export works in. Knows nothing of what a bundle holds, but for its manifest's list.

    OUT.<random>.partial-<pid>/
        edge-export.json     says whose it is; locked for as long as its run lives
        bundle/              what is being written, or, for the moment before it is renamed to OUT, the whole of it
        replaced/            the bundle at OUT, between the rename that takes it away and the end of the export

Only what carries this marker, names itself in it, is of this user and machine, holds nothing else, and whose lock is
free, is ever cleaned up: whatever it is called, a folder of somebody else's lacks at least one of these.
"""

from __future__ import annotations

import json
import os
import platform
import re
import secrets
import shutil
import stat
from contextlib import suppress
from pathlib import Path

import msgspec

from edge_export.errors import OutputExists
from edge_export.moving import rename_new
from edge_runtime.model.manifest import MANIFEST_NAME

try:
    import fcntl
except ImportError:  # Windows: what killed runs left stays for the user to remove
    fcntl = None  # type: ignore[assignment]

MARKER = "edge-export.json"
_MAX_MARKER_BYTES = 4096
_PURPOSE = "work folder of an export; may be removed if that export does not run any more"


class WorkFolder:
    """A new work folder for the bundle `out`. `remove` takes it away, whatever state it is in. Raises `OSError`."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._token = secrets.token_hex(8)
        self.path = out.with_name(f"{out.name}.{self._token}.partial-{os.getpid()}")
        self.bundle = self.path / "bundle"
        self.replaced = self.path / "replaced"
        self._lock: int | None = None
        self.path.mkdir()
        try:
            self._lock = _write_marker(self.path)
            self.bundle.mkdir()
        except BaseException:
            self.remove()
            raise

    def put_back(self) -> None:
        """Undo the taking away of what was to be replaced. Raises `OSError`."""
        if os.path.lexists(self.replaced):
            _put_back(self.replaced, self._out)

    def keep_bundle(self) -> Path:
        """Give the bundle a name of its own beside OUT, which was taken meanwhile, and return that."""
        kept = self._out.with_name(f"{self._out.name}.{self._token}")
        rename_new(self.bundle, kept)
        return kept

    def remove(self) -> None:
        """Put back what was to be replaced and was not, and remove the rest. Never raises `OSError`."""
        with suppress(OSError):
            _clear(self.path, self._out)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def remove_leftovers(out: Path) -> None:
    """Clean up after killed exports to `out`. Raises `OutputExists` if one is still running."""
    name = re.compile(re.escape(out.name) + r"\.[0-9a-f]{16}\.partial-[0-9]+")
    if fcntl is None or not out.parent.is_dir():
        return
    for path in out.parent.iterdir():
        if not name.fullmatch(path.name) or path.is_symlink() or not path.is_dir():
            continue
        lock = _open_marker(path)
        if lock is None:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with suppress(OSError):
                _clear(path, out)
        except BlockingIOError as error:
            pid = path.name.rpartition("-")[2]
            raise OutputExists(
                f"another export (process {pid}) is writing {out}; wait for it, or give another OUT"
            ) from error
        except OSError:  # a file system without locks: nobody can tell whether it runs
            continue
        finally:
            os.close(lock)


def listed_names(folder: Path) -> frozenset[str] | None:
    """Names of all files of the bundle `folder`, of whatever release, its manifest included; None if it is none."""
    path = folder / MANIFEST_NAME
    try:
        if not path.is_file():
            return None
        files = msgspec.json.decode(path.read_bytes(), type=_Listing).files
    except (OSError, ValueError, RecursionError):
        return None
    if any("\0" in name or Path(name).name != name for name in files):
        return None
    return frozenset((*files, MANIFEST_NAME, f"{MANIFEST_NAME}.partial"))  # the last: of a `verify` that was killed


def remove_bundle(folder: Path) -> None:
    """Remove the bundle `folder`: just the files that its manifest lists, the manifest last. Raises `OSError`."""
    names = listed_names(folder) or frozenset()
    for name in (*sorted(names - {MANIFEST_NAME}), *(names & {MANIFEST_NAME})):
        (folder / name).unlink(missing_ok=True)
    folder.rmdir()


class _Listing(msgspec.Struct):
    """What the manifest of every release has."""

    format_version: int
    exporter_version: str
    source_sha256: str
    files: dict[str, msgspec.Raw]


def _clear(path: Path, out: Path) -> None:
    bundle, replaced = path / "bundle", path / "replaced"
    if os.path.lexists(replaced):
        if os.path.lexists(bundle):
            _put_back(replaced, out)
        else:  # the new one stands at OUT
            remove_bundle(replaced)
    shutil.rmtree(bundle, ignore_errors=True)
    if _names_in(path) <= {MARKER}:
        (path / MARKER).unlink(missing_ok=True)
        path.rmdir()


def _names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def _put_back(replaced: Path, out: Path) -> None:
    try:
        rename_new(replaced, out)
    except FileExistsError:  # there is something of somebody else's by now
        rename_new(replaced, out.with_name(f"{out.name}.old-{secrets.token_hex(8)}"))


def _write_marker(path: Path) -> int:
    """The marker's file descriptor, locked where the file system has locks."""
    descriptor = os.open(path / MARKER, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        os.write(descriptor, json.dumps(_marker(path) | {"purpose": _PURPOSE, "process": os.getpid()}).encode())
        if fcntl is not None:
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _marker(path: Path) -> dict[str, str]:
    """What tells our work folder from a copy of one, and this machine's from another's on the same network disk."""
    return {"folder": path.name, "host": platform.node()}


def _open_marker(path: Path) -> int | None:
    """The marker of the work folder `path`, open; None if it is not one of ours."""
    try:
        descriptor = os.open(path / MARKER, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    with suppress(OSError, ValueError, RecursionError, AttributeError):
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and status.st_size <= _MAX_MARKER_BYTES:
            found = json.loads(os.read(descriptor, _MAX_MARKER_BYTES))
            if found.items() >= _marker(path).items() and _names_in(path) <= {MARKER, "bundle", "replaced"}:
                return descriptor
    os.close(descriptor)
    return None
