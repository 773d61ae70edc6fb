"""The output folder: whole or not there, on the disk, and nothing of anybody else's is ever touched for it."""

from __future__ import annotations

import errno
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge_export import bundle_writer, moving, tensor_file, work_folder
from edge_export.bundle_writer import BundleWriter, check_out
from edge_export.errors import ConfigError, DiskFull, OptionError, OutputExists, ParityFailed
from edge_export.moving import rename_new
from edge_export.options import ExportOptions
from edge_export.pipeline import export_bundle
from edge_export.tensor_file import HashedFile
from edge_export.work_folder import MARKER
from edge_runtime.errors import BundleError
from edge_runtime.model.manifest import DECODER_WEIGHTS, MANIFEST_NAME, EmbeddingTable, Manifest, load_manifest
from tests.conftest import NoProgress

TABLE = "embedding.bin"


@pytest.fixture
def manifest(tiny_bundle: Path) -> Manifest:
    """One whose embedding lies in a file that is quickly written."""
    whole = load_manifest(tiny_bundle)
    text = msgspec.structs.replace(whole.architecture.text, vocab_size=1024)
    table = EmbeddingTable(file=TABLE, data_offset=0, scale_file=None, scale_offset=None)
    architecture = msgspec.structs.replace(whole.architecture, text=text)
    return msgspec.structs.replace(whole, architecture=architecture, embedding=table, files={})


def fill(bundle: BundleWriter, manifest: Manifest) -> Manifest:
    text = manifest.architecture.text
    bundle.write_file(TABLE, bytes(4 * text.vocab_size * text.hidden_size))
    return msgspec.structs.replace(manifest, files=bundle.entries)


def write_bundle(out: Path, manifest: Manifest, *, force: bool = False) -> None:
    with BundleWriter(out, force=force, needed_bytes=1) as bundle:
        bundle.commit(fill(bundle, manifest))


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def leftover(parent: Path, *, name: str = "out", host: str | None = None, folder: str | None = None) -> Path:
    """What a killed export of `parent`/out leaves; its marker may say something else than it should."""
    path = parent / f"{name}.0123456789abcdef.partial-1"
    (path / "bundle").mkdir(parents=True)
    (path / "bundle" / DECODER_WEIGHTS).write_bytes(b"x")
    marker = {"folder": folder or path.name, "host": host or platform.node(), "process": 1}
    (path / MARKER).write_text(json.dumps(marker))
    return path


def test_a_bundle_appears_whole(tmp_path: Path, manifest: Manifest) -> None:
    out = tmp_path / "deep" / "out"
    with BundleWriter(out, force=False, needed_bytes=1) as bundle:
        whole = fill(bundle, manifest)
        assert not out.exists()
        assert names_in(bundle.folder) == [TABLE]
        bundle.commit(whole)
    assert names_in(out.parent) == ["out"]
    assert names_in(out) == [TABLE, "manifest.json"]
    assert load_manifest(out) == whole


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    for error in (ValueError, KeyboardInterrupt, SystemExit):
        with pytest.raises(error), BundleWriter(tmp_path / "a" / "out", force=False, needed_bytes=1) as bundle:
            bundle.write_file("tokenizer.json", b"{}")
            raise error
    assert names_in(tmp_path) == []


def test_an_existing_out_is_refused_without_force(tmp_path: Path, manifest: Manifest) -> None:
    write_bundle(tmp_path / "out", manifest)
    with pytest.raises(OutputExists, match="--force"):
        BundleWriter(tmp_path / "out", force=False, needed_bytes=1)
    assert load_manifest(tmp_path / "out")


def test_force_replaces_a_bundle(tmp_path: Path, manifest: Manifest) -> None:
    write_bundle(tmp_path / "out", manifest)
    write_bundle(tmp_path / "out", msgspec.structs.replace(manifest, name="second"), force=True)
    assert load_manifest(tmp_path / "out").name == "second"
    assert names_in(tmp_path) == ["out"]


def test_force_replaces_a_bundle_of_another_format(tmp_path: Path, manifest: Manifest) -> None:
    write_bundle(tmp_path / "out", manifest)
    path = tmp_path / "out" / MANIFEST_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 0, "unknown": 1}))
    write_bundle(tmp_path / "out", manifest, force=True)
    assert load_manifest(tmp_path / "out").format_version == manifest.format_version


def test_force_keeps_the_old_bundle_until_the_new_one_is_whole(tmp_path: Path, manifest: Manifest) -> None:
    write_bundle(tmp_path / "out", manifest)
    before = load_manifest(tmp_path / "out")
    with pytest.raises(ValueError, match="stop"), BundleWriter(tmp_path / "out", force=True, needed_bytes=1) as bundle:
        fill(bundle, manifest)
        raise ValueError("stop")
    assert load_manifest(tmp_path / "out") == before
    assert names_in(tmp_path) == ["out"]


def _folder(out: Path) -> None:
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")


def _foreign_manifest(out: Path) -> None:
    out.mkdir()
    (out / MANIFEST_NAME).write_text("{}")


def _link(out: Path) -> None:
    (out.parent / "elsewhere").mkdir()
    out.symlink_to("elsewhere")


@pytest.mark.parametrize(
    "make", [_folder, _foreign_manifest, _link, lambda out: out.symlink_to("nowhere"), lambda out: out.write_text("x")]
)
def test_force_does_not_remove_what_is_no_bundle(tmp_path: Path, make: Callable[[Path], None]) -> None:
    out = tmp_path / "out"
    make(out)
    before = os.lstat(out).st_ino, names_in(tmp_path)
    for force in (False, True):
        with pytest.raises(OutputExists):
            BundleWriter(out, force=force, needed_bytes=1)
    assert (os.lstat(out).st_ino, names_in(tmp_path)) == before


def test_force_does_not_remove_what_lies_beside_a_bundle(tmp_path: Path, manifest: Manifest) -> None:
    write_bundle(tmp_path / "out", manifest)
    (tmp_path / "out" / "notes.txt").write_text("results")
    with pytest.raises(OutputExists, match=r"notes\.txt"):
        BundleWriter(tmp_path / "out", force=True, needed_bytes=1)
    assert (tmp_path / "out" / "notes.txt").read_text() == "results"


@pytest.mark.parametrize("out", ["..", "x/..", ".", "a\0b", "file/out"])
def test_names_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    for force in (False, True):
        with pytest.raises((OptionError, OutputExists)):
            BundleWriter(Path(out), force=force, needed_bytes=1)
    assert names_in(tmp_path) == ["file"]


def test_a_relative_out(tmp_path: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_bundle(Path("deep/out/"), manifest)
    assert load_manifest(tmp_path / "deep" / "out")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OptionError, match="may not be written to"):
        check_out(tmp_path / "out", force=False)


def test_out_is_looked_at_before_the_source_is(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputExists):
        export_bundle(str(tmp_path / "no-such-checkpoint"), tmp_path / "out", ExportOptions(), NoProgress())


def test_not_enough_room_is_said_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(DiskFull, match=r"has .* free, the bundle needs .* GiB"):
        BundleWriter(tmp_path / "a" / "out", force=False, needed_bytes=10**18)
    assert names_in(tmp_path) == []


@pytest.mark.skipif(work_folder.fcntl is None, reason="without file locks nothing is cleaned up")
def test_leftovers_of_killed_runs_are_removed(tmp_path: Path, manifest: Manifest) -> None:
    leftover(tmp_path)
    write_bundle(tmp_path / "out", manifest)
    assert names_in(tmp_path) == ["out"]


def _without_marker(parent: Path) -> Path:
    path = leftover(parent)
    (path / MARKER).unlink()
    return path


def _with_something_else(parent: Path) -> Path:
    path = leftover(parent)
    (path / "thesis.tex").touch()
    return path


def _linked(parent: Path) -> Path:
    path = leftover(parent)
    path.rename(parent / "mine")
    path.symlink_to("mine")
    return path


@pytest.mark.parametrize(
    "make",
    [
        _without_marker,
        _with_something_else,
        _linked,
        lambda parent: leftover(parent, host="another-host"),
        lambda parent: leftover(parent, folder="another-name"),
        lambda parent: leftover(parent, name="other"),
    ],
)
def test_what_is_not_surely_a_leftover_of_ours_stays(
    tmp_path: Path, manifest: Manifest, make: Callable[[Path], Path]
) -> None:
    for name in ("out.old-20260101", "out.partial-2024"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "precious.txt").write_text("thesis")
    path = make(tmp_path)
    before = names_in(tmp_path)
    write_bundle(tmp_path / "out", manifest)
    assert names_in(tmp_path) == sorted([*before, "out"])
    assert (path / "bundle" / DECODER_WEIGHTS).exists()
    assert (tmp_path / "out.old-20260101" / "precious.txt").exists()


def test_nothing_is_cleaned_up_for_an_export_that_is_refused(tmp_path: Path) -> None:
    path = leftover(tmp_path)
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputExists):
        BundleWriter(tmp_path / "out", force=False, needed_bytes=1)
    assert (path / "bundle" / DECODER_WEIGHTS).exists()


@pytest.mark.skipif(work_folder.fcntl is None, reason="needs file locks")
def test_a_bundle_that_was_being_replaced_comes_back(tmp_path: Path, manifest: Manifest) -> None:
    write_bundle(tmp_path / "out", manifest)
    (tmp_path / "out").rename(leftover(tmp_path) / "replaced")  # killed between the two renames
    with pytest.raises(OutputExists):
        BundleWriter(tmp_path / "out", force=False, needed_bytes=1)
    assert names_in(tmp_path) == ["out"]


@pytest.mark.skipif(work_folder.fcntl is None, reason="needs file locks")
def test_a_bundle_that_was_replaced_goes(tmp_path: Path, manifest: Manifest) -> None:
    write_bundle(tmp_path / "out", manifest)
    path = leftover(tmp_path)
    shutil.copytree(tmp_path / "out", path / "replaced")
    shutil.rmtree(path / "bundle")  # killed after the second rename
    write_bundle(tmp_path / "out", manifest, force=True)
    assert names_in(tmp_path) == ["out"]


@pytest.mark.skipif(work_folder.fcntl is None, reason="needs file locks")
def test_a_second_export_to_the_same_place_is_refused_at_once(tmp_path: Path, manifest: Manifest) -> None:
    with BundleWriter(tmp_path / "out", force=False, needed_bytes=1) as first:
        with pytest.raises(OutputExists, match=f"process {os.getpid()}"):
            BundleWriter(tmp_path / "out", force=False, needed_bytes=1)
        first.commit(fill(first, manifest))
    assert names_in(tmp_path) == ["out"]


@pytest.mark.parametrize("force", [False, True])
def test_what_appears_at_out_meanwhile_stays_and_the_bundle_is_kept(
    tmp_path: Path, manifest: Manifest, force: bool
) -> None:
    out = tmp_path / "out"
    with BundleWriter(out, force=force, needed_bytes=1) as bundle:
        whole = fill(bundle, manifest)
        _folder(out)
        with pytest.raises(OutputExists, match="the finished bundle is") as refusal:
            bundle.commit(whole)
    assert names_in(out) == ["thesis.tex"]
    (kept,) = (path for path in tmp_path.iterdir() if path != out)
    assert str(kept) in str(refusal.value)
    assert load_manifest(kept) == whole


def test_a_bundle_that_changes_meanwhile_is_not_replaced(tmp_path: Path, manifest: Manifest) -> None:
    out = tmp_path / "out"
    write_bundle(out, manifest)
    with pytest.raises(OutputExists), BundleWriter(out, force=True, needed_bytes=1) as bundle:
        whole = fill(bundle, manifest)
        (out / "notes.txt").write_text("results")
        bundle.commit(whole)
    assert (out / "notes.txt").exists()
    assert (out / MANIFEST_NAME).exists()


def test_a_swap_that_fails_puts_the_old_bundle_back(
    tmp_path: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    write_bundle(out, manifest)
    before = load_manifest(out)

    def fail_for_the_new_one(source: Path, target: Path) -> None:
        if source.name == "bundle":
            raise OSError(errno.EIO, "Input/output error")
        rename_new(source, target)

    monkeypatch.setattr(bundle_writer, "rename_new", fail_for_the_new_one)
    with pytest.raises(OptionError, match="Input/output error"):
        write_bundle(out, msgspec.structs.replace(manifest, name="second"), force=True)
    assert load_manifest(out) == before
    assert names_in(tmp_path) == ["out"]


@pytest.mark.parametrize("known", [True, False])
def test_renames_never_replace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: bool) -> None:
    """With the system's own call, and as on file systems that lack it."""
    if not known:
        monkeypatch.setattr(moving, "_rename_without_replacing", lambda *_: False)
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    for make in (Path.mkdir, Path.touch, lambda path: path.symlink_to("nowhere"), _folder):
        make(target)
        before = os.lstat(target).st_ino
        with pytest.raises(FileExistsError):
            rename_new(source, target)
        assert os.lstat(target).st_ino == before
        target.rename(tmp_path / f"kept-{before}")
    rename_new(source, target)
    assert target.is_dir()
    assert not source.exists()


class FullDisk:
    """A disk that takes `left` more calls (folders, files, writes, syncs) and is full from then on."""

    def __init__(self, left: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = left
        path_open = Path.open

        def open_file(path: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
            if mode == "xb":
                self.count()
                return FullFile(self, path_open(path, mode, *args, **options))
            return path_open(path, mode, *args, **options)

        monkeypatch.setattr(Path, "open", open_file)
        for owner, name in ((Path, "mkdir"), (os, "fsync"), (os, "write")):
            monkeypatch.setattr(owner, name, self.counted(getattr(owner, name)))

    def count(self) -> None:
        if self.left == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.left -= 1

    def counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            self.count()
            return function(*args, **options)

        return call


class FullFile:
    """A file on a `FullDisk`; a write takes ten bytes at least twice."""

    def __init__(self, disk: FullDisk, file: Any) -> None:
        self.disk = disk
        self.file = file

    def write(self, data: memoryview) -> int:
        self.disk.count()
        return int(self.file.write(data[: max(10, len(data) // 2)]))

    def fileno(self) -> int:
        return int(self.file.fileno())

    def close(self) -> None:
        self.file.close()


def test_a_disk_that_fills_at_any_moment(tmp_path: Path, manifest: Manifest) -> None:
    """At every call in turn: always `DiskFull`, and nothing is left."""
    for calls in range(1000):
        with pytest.MonkeyPatch.context() as monkeypatch:
            FullDisk(calls, monkeypatch)
            try:
                write_bundle(tmp_path / "deep" / "out", manifest)
            except DiskFull as error:
                assert "the disk is full" in str(error)
            else:
                break
        assert names_in(tmp_path) == [], f"after {calls} calls"
    assert calls > 10
    assert load_manifest(tmp_path / "deep" / "out")


@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS, errno.EFBIG])
def test_a_disk_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tensor_file.os, "fsync", fail)
    with (
        pytest.raises(OptionError, match=os.strerror(number)),
        BundleWriter(tmp_path / "out", force=False, needed_bytes=1) as bundle,
    ):
        bundle.write_file("tokenizer.json", b"{}")
    assert names_in(tmp_path) == []


def test_a_full_disk_somewhere_else_in_an_export(tmp_path: Path) -> None:
    with pytest.raises(DiskFull), BundleWriter(tmp_path / "out", force=False, needed_bytes=1):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert names_in(tmp_path) == []


def test_a_manifest_that_the_runtime_would_refuse_is_not_written(tmp_path: Path, manifest: Manifest) -> None:
    odd = msgspec.structs.replace(manifest.generation, temperature=float("nan"))
    with pytest.raises(ConfigError, match=r"generation\.temperature is nan"):
        write_bundle(tmp_path / "out", msgspec.structs.replace(manifest, generation=odd))
    assert names_in(tmp_path) == []


def test_entries_are_sizes_and_hashes(tmp_path: Path) -> None:
    with HashedFile(tmp_path / "abc") as file:
        file.write(b"a")
        file.write(b"bc")
        assert file.entry is None
    assert file.entry is not None
    assert file.entry.size_bytes == 3
    # FIPS 180-2, appendix B.1
    assert file.entry.sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with pytest.raises(FileExistsError):
        HashedFile(tmp_path / "abc")


WRITE_AND_WAIT = """
import sys
from pathlib import Path
from edge_export.bundle_writer import BundleWriter
with BundleWriter(Path(sys.argv[1]), force=False, needed_bytes=1) as bundle:
    bundle.write_file("decoder.onnx.data", bytes(5000))
    print("written", flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(work_folder.fcntl is None, reason="needs file locks")
def test_a_killed_export_leaves_no_bundle_and_the_next_one_cleans_up(tmp_path: Path, manifest: Manifest) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-c", WRITE_AND_WAIT, str(out)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        (left,) = names_in(tmp_path)
        assert left.endswith(f".partial-{process.pid}")
        process.send_signal(signal.SIGKILL)
    assert names_in(tmp_path) == [left]
    for folder in (tmp_path / left, tmp_path / left / "bundle"):
        with pytest.raises(BundleError, match=r"no manifest\.json"):
            load_manifest(folder)
    write_bundle(out, manifest)
    assert names_in(tmp_path) == ["out"]


def test_the_gate_runs_before_there_is_a_manifest(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []

    def look(folder: Path, *_: object, **__: object) -> None:
        seen.append(names_in(folder))
        raise ParityFailed("enough")

    monkeypatch.setattr("edge_export.verify.gate.run_gate", look)
    with pytest.raises(ParityFailed):
        export_bundle(str(tiny_checkpoint), tmp_path / "out", ExportOptions(), NoProgress())
    assert "decoder.onnx.data" in seen[0]
    assert not [name for name in seen[0] if name.startswith("manifest")]
    assert names_in(tmp_path) == []
