"""Damaged and foreign bundle folders: each is refused with a `BundleError` that names what is wrong."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.engine.bundle_runner import BundleRunner, RunnerSettings
from edge_runtime.errors import BundleError
from edge_runtime.model.bundle import open_bundle
from edge_runtime.model.session import SessionSettings
from edge_runtime.vision.image import ImageLimits


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def edit_manifest(bundle: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def load(bundle: Path) -> BundleRunner:
    settings = RunnerSettings(256, 256, None, SessionSettings(num_threads=1), ImageLimits())
    return BundleRunner(open_bundle(bundle), settings)


def test_a_whole_bundle_opens(bundle: Path) -> None:
    assert open_bundle(bundle, verify_hashes=True).manifest.flavour == "portable"


def test_missing_folder_and_folder_without_manifest(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is not a folder"):
        open_bundle(tmp_path / "nowhere")
    with pytest.raises(BundleError, match=r"has no manifest\.json"):
        open_bundle(tmp_path)


@pytest.mark.parametrize("name", ["decoder.onnx", "decoder.onnx.data", "tokenizer.json", "chat_template.jinja"])
def test_missing_file(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    with pytest.raises(BundleError, match=f"{name} is missing"):
        open_bundle(bundle)


def test_size_is_always_checked(bundle: Path) -> None:
    file = bundle / "vision.onnx.data"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(BundleError, match="the manifest says"):
        open_bundle(bundle)


def test_hashes_are_checked_on_request(bundle: Path) -> None:
    file = bundle / "vision.onnx.data"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    open_bundle(bundle)
    with pytest.raises(BundleError, match=r"vision\.onnx\.data does not have the SHA-256"):
        open_bundle(bundle, verify_hashes=True)


def test_manifest_that_is_cut_short(bundle: Path) -> None:
    path = bundle / "manifest.json"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(BundleError, match="not a valid manifest"):
        open_bundle(bundle)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda manifest: manifest.update(format_version=99), "format version 99"),
        (lambda manifest: manifest.update(surprise=1), "surprise"),
        (lambda manifest: manifest["architecture"]["text"].pop("head_dim"), "head_dim"),
        (lambda manifest: manifest.update(flavour="edge"), r"does not list decoder\.fp16\.onnx, decoder\.fp32\.onnx"),
        (lambda manifest: manifest["files"].pop("vision.onnx"), r"does not list vision\.onnx"),
        (lambda manifest: manifest["architecture"]["text"].update(mrope_section=[1, 1, 1]), "mrope_section"),
        (lambda manifest: manifest["files"].update({"../x": {"size_bytes": 1, "sha256": ""}}), "outside the folder"),
    ],
)
def test_manifest_that_cannot_be_run(bundle: Path, change: Callable[[dict[str, Any]], None], message: str) -> None:
    edit_manifest(bundle, change)
    with pytest.raises(BundleError, match=message):
        open_bundle(bundle)


def overwrite(bundle: Path, name: str, content: bytes) -> None:
    (bundle / name).write_bytes(content)
    edit_manifest(bundle, lambda manifest: manifest["files"][name].update(size_bytes=len(content)))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("decoder.onnx", b"not a graph"),
        ("vision.onnx", b""),
        ("tokenizer.json", b"{}"),
        ("tokenizer.json", b"\xff\xfe"),
        ("chat_template.jinja", b"{% if %}"),
        ("chat_template.jinja", b"\xff\xfe\x00"),
    ],
)
def test_files_with_foreign_content(bundle: Path, name: str, content: bytes) -> None:
    overwrite(bundle, name, content)
    with pytest.raises(BundleError):
        load(bundle)


def test_graph_of_another_contract(bundle: Path) -> None:
    overwrite(bundle, "decoder.onnx", (bundle / "vision.onnx").read_bytes())
    shutil.copy(bundle / "vision.onnx.data", bundle / "decoder.onnx.data")
    size = (bundle / "decoder.onnx.data").stat().st_size
    edit_manifest(bundle, lambda manifest: manifest["files"]["decoder.onnx.data"].update(size_bytes=size))
    with pytest.raises(BundleError, match="does not have the inputs of this release"):
        load(bundle)
