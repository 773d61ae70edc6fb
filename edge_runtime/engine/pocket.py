"""The model that ships with the project, under the name `pocket`: its first use exports it to a cache folder.

The export runs as a process of its own (`python -m edge_export`): the runtime imports nothing of the exporter. What is
found in the cache is trusted no further than its hashes go; anything else is exported again.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

from edge_kernels.library import KernelError, KernelLibrary
from edge_runtime import __version__
from edge_runtime.errors import BundleError
from edge_runtime.model.bundle import open_bundle
from edge_runtime.model.manifest import CHAT_TEMPLATE, MANIFEST_NAME, TOKENIZER
from edge_runtime.model.pocket import NAME, checkpoint

_OURS = (MANIFEST_NAME, TOKENIZER, CHAT_TEMPLATE, "README.md", "LICENSE*", "*.onnx", "*.data", "*.bin")
"""Names of what an export writes: no other file is ever removed."""

_ELSEWHERE = (
    "set XDG_CACHE_HOME to a folder that can be written, or export it yourself: edge-export pocket FOLDER, and say "
    "FOLDER instead of pocket"
)

_SAMPLES, _SAMPLE_BYTES = 64, 4096


def bundle_folder(name_or_folder: str | Path) -> Path:
    """The folder of a bundle that a caller named; the string `pocket` stands for the model that ships with the project.

    Raises `BundleError` if pocket is not there, or has to be exported first and cannot be.
    """
    return pocket_bundle(checkpoint(), cache_folder()) if name_or_folder == NAME else Path(name_or_folder)


def cache_folder() -> Path:
    """Where exported bundles are kept: in what the system calls its cache, else in `~/.cache`.

    Raises `BundleError` where there is neither. A relative XDG_CACHE_HOME counts as none, as its specification has it.
    """
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if named.is_absolute():
        return named / "edge-runtime"
    try:
        return Path.home().absolute() / ".cache" / "edge-runtime"
    except RuntimeError as error:
        raise BundleError(f"there is no home folder to keep the export of {NAME} in; {_ELSEWHERE}") from error


def pocket_bundle(source: Path, cache: Path) -> Path:
    """The bundle of the checkpoint `source` under `cache`; exported now, with a word on standard error, if need be.

    INT4, of flavour `edge` where the kernels are installed. Another version of the program or of the checkpoint is
    another bundle. One that is incomplete or was altered is made again. Raises `BundleError`.
    """
    flavour = "edge" if _kernels_run() else "portable"
    bundle = cache / f"{NAME}-{__version__}-{flavour}-{_digest(source)}"
    if _damage(bundle) is None:
        return bundle
    try:
        with _alone(cache) as lock:
            damage = _damage(bundle)
            if damage is not None:  # else another process was first
                _make(source, bundle, flavour, lock, damage)
    except OSError as error:
        raise BundleError(
            f"the export of {NAME} cannot be kept in {cache}: {error.strerror or error}; {_ELSEWHERE}"
        ) from error
    return bundle


def _make(source: Path, bundle: Path, flavour: str, lock: int, damage: str) -> None:
    """Export beside `bundle`, then take its place; what was wrong with it before is `damage`.

    A damaged one goes when the new one is there. Raises `BundleError`, `OSError`.
    """
    fresh = bundle.with_name(f"{bundle.name}.new")
    if os.path.lexists(bundle):
        _refuse_foreign(bundle)
        print(f"the export of {NAME} in {bundle} is damaged: {damage}", file=sys.stderr)
    if os.path.lexists(fresh):  # of a run that was killed
        _refuse_foreign(fresh)
        _remove_export(fresh)
    print(f"exporting {NAME} to {bundle}; this happens once", file=sys.stderr)
    _export(source, fresh, flavour, lock)
    if os.path.lexists(bundle):
        _remove_export(bundle)
    fresh.rename(bundle)
    _seal(bundle).write_text(_sha256(bundle / MANIFEST_NAME))


def _digest(source: Path) -> str:
    """What tells one checkpoint from another: all of its small files, and samples from all over the large one.

    Every start pays for it. Other weights differ everywhere, so reading 25 MB would tell no more.
    """
    digest = hashlib.sha256()
    for path in sorted(source.iterdir()):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            if size <= _SAMPLES * _SAMPLE_BYTES:
                digest.update(file.read())
            else:
                for i in range(_SAMPLES):
                    file.seek(i * (size - _SAMPLE_BYTES) // (_SAMPLES - 1))
                    digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:12]


def _seal(bundle: Path) -> Path:
    """The file beside an export of ours with the SHA-256 of its manifest, which has those of all other files."""
    return bundle.with_name(f"{bundle.name}.sha256")


def _damage(bundle: Path) -> str | None:
    """What is wrong with an export in the cache, its files' hashes included; None if it is as it was made.

    One without a seal was copied here, or its maker was killed at the last moment.
    """
    try:
        open_bundle(bundle, verify_hashes=True)
        seal = _seal(bundle)
        if seal.exists() and seal.read_text(errors="replace") != _sha256(bundle / MANIFEST_NAME):
            return f"{MANIFEST_NAME} is not the one that was written"
    except BundleError as error:
        return str(error).removeprefix(f"{bundle}: ").partition(";")[0]
    except OSError as error:
        return f"{error.filename or bundle}: {error.strerror or error}"
    return None


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@contextmanager
def _alone(cache: Path) -> Iterator[int]:
    """The cache folder, made if need be, and locked against other exports; gives the lock's descriptor.

    The kernel frees the lock when its last holder is gone, however it went. Raises `OSError`.
    """
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{NAME}.lock").open("ab") as file:
        if sys.platform != "win32":
            import fcntl  # noqa: PLC0415 - POSIX only

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"another process is exporting {NAME}; waiting for it", file=sys.stderr)
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError:  # a file system without locks: both export, and the second finds the first one's bundle
                pass
        yield file.fileno()


def _refuse_foreign(bundle: Path) -> None:
    """Raise `BundleError` where something else than an export lies in its place."""
    if bundle.is_symlink() or not bundle.is_dir():
        what = "it is no folder"
    else:
        others = sorted(path.name for path in bundle.iterdir() if path.is_dir() or not _is_ours(path.name))
        what = f"it holds {', '.join(others[:3])}" if others else ""
    if what:
        raise BundleError(f"{bundle} is where the export of {NAME} belongs, but {what}; move that away")


def _remove_export(bundle: Path) -> None:
    """Remove the files of an export, and its folder. Raises `OSError` if anything else has come into it."""
    for path in bundle.iterdir():
        if _is_ours(path.name):
            path.unlink()
    bundle.rmdir()


def _is_ours(name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in _OURS)


def _export(source: Path, bundle: Path, flavour: str, lock: int) -> None:
    """Export to `bundle`, where nothing is. Raises `BundleError`, `OSError`."""
    command = [sys.executable, "-m", "edge_export", str(source), str(bundle), "--weights", "int4", "--flavour", flavour]
    done = subprocess.run(  # noqa: S603 - our own program
        command,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONSAFEPATH": "1"},  # no module out of the folder that we happen to be in
        pass_fds=(lock,) if sys.platform != "win32" else (),  # an export that outlives us keeps others out
    )
    try:
        open_bundle(bundle)
    except BundleError as error:
        said = (done.stderr or done.stdout).strip()[-2000:].removeprefix("edge-export: ") or str(error)
        raise BundleError(f"exporting {NAME} to {bundle.parent} failed: {said}") from error


def _kernels_run() -> bool:
    try:
        KernelLibrary()
    except KernelError:
        return False
    return True
