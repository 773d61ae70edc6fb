from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from edge_export import bundle_writer
from edge_export.bundle_writer import BundleWriter
from edge_export.errors import DiskFull, OutputExists
from edge_export.tensor_file import HashedFile
from edge_runtime.errors import BundleError
from edge_runtime.model.manifest import MANIFEST_NAME, Manifest, load_manifest


@pytest.fixture
def manifest(tiny_bundle: Path) -> Manifest:
    return load_manifest(tiny_bundle)


def write_bundle(out: Path, manifest: Manifest, *, force: bool = False) -> None:
    with BundleWriter(out, force=force, needed_bytes=1) as bundle:
        bundle.write_file("tokenizer.json", b"{}")
        bundle.write_manifest(msgspec.structs.replace(manifest, files=bundle.entries))
        bundle.commit()


def dead_pid() -> int:
    """The id of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_bundle_appears_whole(tmp_path: Path, manifest: Manifest) -> None:
    out = tmp_path / "deep" / "out"
    with BundleWriter(out, force=False, needed_bytes=1) as bundle:
        bundle.write_file("tokenizer.json", b"{}")
        bundle.write_manifest(manifest)
        assert not out.exists()
        bundle.commit()
    assert names_in(out.parent) == ["out"]
    assert names_in(out) == ["manifest.json", "tokenizer.json"]
    assert load_manifest(out) == manifest


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    for error in (ValueError, KeyboardInterrupt, SystemExit):
        with pytest.raises(error), BundleWriter(tmp_path / "out", force=False, needed_bytes=1) as bundle:
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


def test_force_keeps_the_old_bundle_until_the_new_one_is_whole(tmp_path: Path, manifest: Manifest) -> None:
    write_bundle(tmp_path / "out", manifest)
    before = load_manifest(tmp_path / "out")
    with pytest.raises(ValueError, match="stop"), BundleWriter(tmp_path / "out", force=True, needed_bytes=1) as bundle:
        bundle.write_manifest(msgspec.structs.replace(manifest, name="second"))
        raise ValueError("stop")
    assert load_manifest(tmp_path / "out") == before
    assert names_in(tmp_path) == ["out"]


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_force_does_not_remove_what_is_no_bundle(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    if kind == "folder":
        out.mkdir()
        (out / "thesis.tex").write_text("years of work")
    else:
        out.write_text("years of work")
    with pytest.raises(OutputExists, match="not a bundle"):
        BundleWriter(out, force=True, needed_bytes=1)
    assert out.exists()


def test_not_enough_room_is_said_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(DiskFull, match=r"the bundle needs 1000000000\.0 GB"):
        BundleWriter(tmp_path / "out", force=False, needed_bytes=10**18)
    assert names_in(tmp_path) == []


def test_leftovers_of_killed_runs_are_removed(tmp_path: Path, manifest: Manifest) -> None:
    dead = tmp_path / f"out.partial-{dead_pid()}"
    alive = tmp_path / f"out.partial-{os.getppid()}"
    other = tmp_path / "out.partial-notes"
    for folder in (dead, alive, other):
        folder.mkdir()
        (folder / "decoder.onnx.data").write_bytes(b"x")
    write_bundle(tmp_path / "out", manifest)
    assert names_in(tmp_path) == sorted(["out", alive.name, other.name])


def test_a_bundle_that_was_being_replaced_comes_back(tmp_path: Path, manifest: Manifest) -> None:
    write_bundle(tmp_path / "out", manifest)
    (tmp_path / "out").rename(tmp_path / f"out.old-{dead_pid()}")  # killed between the two renames
    with pytest.raises(OutputExists):
        BundleWriter(tmp_path / "out", force=False, needed_bytes=1)
    assert names_in(tmp_path) == ["out"]


def test_a_full_disk_while_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class FullDisk:
        """A file that takes 10 bytes and then no more."""

        def __init__(self) -> None:
            self.taken = 0

        def write(self, data: memoryview) -> int:
            if self.taken:
                raise OSError(errno.ENOSPC, "No space left on device")
            self.taken = min(10, len(data))
            return self.taken

        def close(self) -> None: ...

    out = tmp_path / "out"
    with (
        pytest.raises(DiskFull, match=r"decoder\.onnx\.data"),
        BundleWriter(out, force=False, needed_bytes=1) as bundle,
        bundle.open_file("decoder.onnx.data") as file,
    ):
        file._file.close()
        monkeypatch.setattr(file, "_file", FullDisk())
        file.write(bytes(100))
    assert names_in(tmp_path) == []


def test_a_full_disk_at_the_manifest(tmp_path: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(bundle_writer, "save_manifest", no_room)
    with pytest.raises(DiskFull, match=MANIFEST_NAME):
        write_bundle(tmp_path / "out", manifest)
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


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_export_leaves_no_bundle_and_the_next_one_cleans_up(tmp_path: Path, manifest: Manifest) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-c", WRITE_AND_WAIT, str(out)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        assert names_in(tmp_path) == [f"out.partial-{process.pid}"]
        process.kill()
    left = names_in(tmp_path)
    assert left == [f"out.partial-{process.pid}"]
    with pytest.raises(BundleError, match=r"no manifest\.json"):
        load_manifest(tmp_path / left[0])
    write_bundle(out, manifest)
    assert names_in(tmp_path) == ["out"]
