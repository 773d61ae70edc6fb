"""Opens a bundle folder and refuses what cannot run, before any graph is loaded. Knows nothing of ONNX Runtime."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.errors import BundleError
from edge_runtime.model.manifest import Manifest, decoder_graph_name, kv_dtypes, load_manifest

VISION_GRAPH = "vision.onnx"
TOKENIZER = "tokenizer.json"
CHAT_TEMPLATE = "chat_template.jinja"
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Bundle:
    """A checked bundle: every file its manifest names is there and has the size it should have."""

    path: Path
    manifest: Manifest

    def file(self, name: str) -> Path:
        """Path of one of its files."""
        return self.path / name


def open_bundle(path: Path, *, verify_hashes: bool = False) -> Bundle:
    """Read the manifest of the bundle folder `path` and check its files: sizes always, SHA-256 on request.

    Raises `BundleError` for a folder that is not a bundle, is incomplete or damaged, or that this runtime cannot run.
    """
    bundle = Bundle(path, load_manifest(path))
    _check_runnable(bundle)
    for name, entry in bundle.manifest.files.items():
        file = bundle.file(name)
        if Path(name).name != name:
            raise BundleError(
                f"{path}: the manifest names a file outside the folder: {name!r}; do not trust this bundle"
            )
        if not file.is_file():
            raise BundleError(f"{path}: {name} is missing; copy the bundle again, or export it again")
        size = file.stat().st_size
        if size != entry.size_bytes:
            raise BundleError(
                f"{path}: {name} has {size} bytes, the manifest says {entry.size_bytes}; the copy was cut short or the "
                "file was changed: copy the bundle again"
            )
        if verify_hashes and _sha256(file) != entry.sha256:
            raise BundleError(f"{path}: {name} does not have the SHA-256 of the manifest; copy the bundle again")
    return bundle


def _check_runnable(bundle: Bundle) -> None:
    manifest = bundle.manifest
    wanted = {VISION_GRAPH, TOKENIZER, CHAT_TEMPLATE, manifest.embedding.file}
    wanted |= {decoder_graph_name(manifest.flavour, dtype) for dtype in kv_dtypes(manifest.flavour)}
    if manifest.embedding.scale_file is not None:
        wanted.add(manifest.embedding.scale_file)
    unlisted = sorted(wanted - set(manifest.files))
    if unlisted:
        raise BundleError(f"{bundle.path}: the manifest does not list {', '.join(unlisted)}; export the bundle again")
    text = manifest.architecture.text
    if sum(text.mrope_section) != text.head_dim // 2:
        raise BundleError(
            f"{bundle.path}: mrope_section {list(text.mrope_section)} must add up to head_dim / 2 = "
            f"{text.head_dim // 2}; export the bundle again"
        )


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
