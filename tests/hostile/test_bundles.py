"""Damaged and foreign bundle folders: each is refused with a `BundleError` that names what is wrong."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from edge_runtime.devices.memory import MemoryRequest
from edge_runtime.engine.bundle_runner import BundleRunner, RunnerSettings
from edge_runtime.engine.load import PlannedBundle
from edge_runtime.errors import BundleError
from edge_runtime.model.bundle import open_bundle
from edge_runtime.model.graph import GraphSettings
from edge_runtime.model.manifest import (
    CHAT_TEMPLATE,
    DECODER_WEIGHTS,
    MANIFEST_NAME,
    TOKENIZER,
    VISION_GRAPH,
    VISION_WEIGHTS,
)
from edge_runtime.vision.image import ImageLimits
from tests.onnx_graphs import graphs_of


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def edit_manifest(bundle: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = bundle / MANIFEST_NAME
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def load(bundle: Path) -> BundleRunner:
    settings = RunnerSettings(256, 256, None, GraphSettings(num_threads=1), ImageLimits())
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
    file = bundle / VISION_WEIGHTS
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(BundleError, match="the manifest says"):
        open_bundle(bundle)


def test_hashes_are_checked_on_request(bundle: Path) -> None:
    file = bundle / VISION_WEIGHTS
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    open_bundle(bundle)
    with pytest.raises(BundleError, match=r"vision\.onnx\.data does not have the SHA-256"):
        open_bundle(bundle, verify_hashes=True)


def test_manifest_that_is_cut_short(bundle: Path) -> None:
    path = bundle / MANIFEST_NAME
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(BundleError, match="not a valid manifest"):
        open_bundle(bundle)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda manifest: manifest.update(format_version=99), "format version 99"),
        (lambda manifest: manifest.update(surprise=1), "surprise"),
        (lambda manifest: manifest["architecture"]["text"].pop("head_dim"), "head_dim"),
        (lambda manifest: manifest.update(flavour="edge"), "int4 or int8 in a bundle of flavour 'edge'"),
        (lambda manifest: manifest["files"].pop("decoder.onnx"), r"does not list decoder\.onnx"),
        (lambda manifest: manifest["files"].pop("vision.onnx"), r"does not list vision\.onnx"),
        (lambda manifest: manifest["architecture"]["text"].update(mrope_section=[1, 1, 1]), "mrope_section"),
        (lambda manifest: manifest["files"].update({"../x": {"size_bytes": 1, "sha256": ""}}), "outside the folder"),
    ],
)
def test_manifest_that_cannot_be_run(bundle: Path, change: Callable[[dict[str, Any]], None], message: str) -> None:
    edit_manifest(bundle, change)
    with pytest.raises(BundleError, match=message):
        open_bundle(bundle)


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b"])
def test_paths_that_cannot_be(tmp_path: Path, name: str) -> None:
    with pytest.raises(BundleError):
        open_bundle(tmp_path / name)


@pytest.mark.parametrize("name", ["chat_template.jinja", "vision.onnx", "manifest.json"])
def test_pipes_folders_and_devices(bundle: Path, name: str) -> None:
    path = bundle / name
    for make in (os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/zero")):
        path.unlink() if path.is_symlink() or not path.is_dir() else path.rmdir()
        make(path)
        with pytest.raises(BundleError):
            open_bundle(bundle)


def test_links_may_not_lead_out_of_the_folder(bundle: Path) -> None:
    (bundle / "README.md").unlink(missing_ok=True)
    inside, outside = bundle / "inside.jinja", bundle.parent / "outside.jinja"
    for target in (inside, outside):
        shutil.copy(bundle / CHAT_TEMPLATE, target)
    (bundle / CHAT_TEMPLATE).unlink()
    (bundle / CHAT_TEMPLATE).symlink_to(inside.name)
    assert open_bundle(bundle)
    (bundle / CHAT_TEMPLATE).unlink()
    (bundle / CHAT_TEMPLATE).symlink_to("../outside.jinja")
    with pytest.raises(BundleError, match="leads out of the folder"):
        open_bundle(bundle)


def test_files_may_have_a_second_name(tiny_bundle: Path, tmp_path: Path) -> None:
    """Backups and caches make hard links."""
    (tmp_path / "linked").mkdir()
    for path in tiny_bundle.iterdir():
        os.link(path, tmp_path / "linked" / path.name)
    assert load(tmp_path / "linked").max_context == 256


def test_a_folder_that_is_a_link_itself(bundle: Path) -> None:
    (bundle.parent / "link").symlink_to(bundle.name)
    assert open_bundle(bundle.parent / "link")


@pytest.mark.parametrize("change", [Path.unlink, lambda path: path.write_bytes(b"x")])
def test_files_that_change_after_the_check(bundle: Path, change: Callable[[Path], object]) -> None:
    opened = open_bundle(bundle)
    change(bundle / TOKENIZER)
    with pytest.raises(BundleError, match=r"tokenizer\.json"):
        opened.file("tokenizer.json")


def test_a_bundle_whose_gate_failed_is_not_served(bundle: Path) -> None:
    edit_manifest(bundle, lambda manifest: manifest["parity"].update(passed=False))
    assert open_bundle(bundle)  # `inspect` shows it
    with pytest.raises(BundleError, match="failed its parity gate"):
        PlannedBundle.open(bundle, "auto", MemoryRequest())


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


def edit_graph(bundle: Path, name: str, change: Callable[[onnx.ModelProto], object]) -> None:
    model = onnx.load(bundle / name, load_external_data=False)
    change(model)
    overwrite(bundle, name, model.SerializeToString())


def relocate(model: onnx.ModelProto, location: str) -> None:
    for tensor in (tensor for graph in graphs_of(model.graph) for tensor in graph.initializer):
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location


@pytest.mark.parametrize("location", ["../vision.onnx.data", "/etc/passwd", "unlisted.bin", "", "x" * 200, "a\0b"])
def test_weights_outside_the_bundle(bundle: Path, location: str) -> None:
    shutil.copy(bundle / VISION_WEIGHTS, bundle / "unlisted.bin")
    edit_graph(bundle, "vision.onnx", lambda model: relocate(model, location))
    with pytest.raises(BundleError, match="the manifest does not list"):
        open_bundle(bundle)


@pytest.mark.parametrize(("key", "value"), [("offset", 2**40), ("offset", -64), ("length", 2**60), ("length", "x")])
def test_weights_past_the_end_of_their_file(bundle: Path, key: str, value: object) -> None:
    def change(model: onnx.ModelProto) -> None:
        for tensor in (tensor for graph in graphs_of(model.graph) for tensor in graph.initializer):
            for entry in tensor.external_data:
                if entry.key == key:
                    entry.value = str(value)

    edit_graph(bundle, "vision.onnx", change)
    with pytest.raises(BundleError):
        load(bundle)


def rename_input(model: onnx.ModelProto) -> None:
    name = model.graph.input[0].name
    model.graph.input[0].name = "other"
    for node in model.graph.node:
        for i, used in enumerate(node.input):
            if used == name:
                node.input[i] = "other"


@pytest.mark.parametrize("name", ["vision.onnx", "decoder.onnx"])
def test_graphs_with_other_inputs(bundle: Path, name: str) -> None:
    edit_graph(bundle, name, rename_input)
    with pytest.raises(BundleError, match="does not have the inputs of this release"):
        load(bundle)


@pytest.mark.parametrize(
    ("field", "value"), [("num_layers", 3), ("num_kv_heads", 4), ("max_position_embeddings", 100), ("head_dim", 16)]
)
def test_graphs_of_another_size_than_the_manifest_says(bundle: Path, field: str, value: int) -> None:
    def change(manifest: dict[str, Any]) -> None:
        text = manifest["architecture"]["text"]
        text[field] = value
        text["mrope_section"] = [text["head_dim"] // 2, 0, 0]

    edit_manifest(bundle, change)
    if field == "max_position_embeddings":  # not a size of the graph
        assert load(bundle).max_context == value
    else:
        with pytest.raises(BundleError, match="export the bundle again"):
            load(bundle)


def test_graph_of_another_contract(bundle: Path) -> None:
    overwrite(bundle, "decoder.onnx", (bundle / VISION_GRAPH).read_bytes())
    shutil.copy(bundle / VISION_WEIGHTS, bundle / DECODER_WEIGHTS)
    size = (bundle / DECODER_WEIGHTS).stat().st_size
    edit_manifest(bundle, lambda manifest: manifest["files"]["decoder.onnx.data"].update(size_bytes=size))
    with pytest.raises(BundleError, match="does not have the inputs of this release"):
        load(bundle)
