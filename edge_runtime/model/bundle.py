"""Opens a bundle folder and refuses what cannot run, before any graph is loaded. Knows nothing of ONNX Runtime."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.errors import BundleError
from edge_runtime.model.bundle_files import read_regular, regular_file_size
from edge_runtime.model.manifest import (
    CHAT_TEMPLATE,
    TOKENIZER,
    VISION_GRAPH,
    Manifest,
    decoder_graph_name,
    kv_dtypes,
    load_manifest,
)

GRAPH_SUFFIX = ".onnx"
_CHUNK_BYTES = 1 << 20
_MAX_GRAPH_BYTES = 64 * 2**20
"""Graphs hold no weights; those of an 8B have less than a megabyte."""
_LOCATION = b"location"


@dataclass(frozen=True, slots=True)
class Bundle:
    """A checked bundle: every file its manifest names is there and has the size it should have."""

    path: Path
    manifest: Manifest

    def file(self, name: str) -> Path:
        """Path of one of its files, which is looked at again: it may have changed since the check.

        Raises `BundleError` if it is no regular file inside the folder any more, or has another size.
        """
        found, wanted = regular_file_size(self.path, name), self.manifest.files[name].size_bytes
        if found != wanted:
            raise BundleError(
                f"{self.path}: {name} has {found} bytes, the manifest says {wanted}; the copy was cut short or the "
                "file was changed: copy the bundle again"
            )
        return self.path / name


def open_bundle(path: Path, *, verify_hashes: bool = False) -> Bundle:
    """Read the manifest of the bundle folder `path` and check its files: sizes always, SHA-256 on request.

    Raises `BundleError` for a folder that is not a bundle, is incomplete or damaged, or that this runtime cannot run.
    """
    bundle = Bundle(path, load_manifest(path))
    _check_listed(bundle)
    for name, entry in bundle.manifest.files.items():
        file = bundle.file(name)
        try:
            if verify_hashes and _sha256(file) != entry.sha256:
                raise BundleError(f"{path}: {name} does not have the SHA-256 of the manifest; copy the bundle again")
            if name.endswith(GRAPH_SUFFIX):
                _check_references(bundle, name)
        except OSError as error:
            raise BundleError(f"{path}: {name} cannot be read: {error}; copy the bundle again") from error
    return bundle


def refuse_failed(bundle: Bundle) -> None:
    """Raise `BundleError` if `bundle` was compared with its checkpoint and does not compute the same."""
    parity = bundle.manifest.parity
    if parity is not None and not parity.passed:
        raise BundleError(
            f"{bundle.path} failed its parity gate ({parity.greedy_tokens_equal} of {parity.greedy_tokens_compared} "
            f"greedy tokens are those of its checkpoint; `edge-runtime inspect` shows all), so its answers are not the "
            "model's; export it again (--weights int8 or fp32 are more exact), or compare it again with `edge-export "
            "verify`"
        )


def _check_listed(bundle: Bundle) -> None:
    manifest = bundle.manifest
    wanted = {VISION_GRAPH, TOKENIZER, CHAT_TEMPLATE}
    wanted |= {decoder_graph_name(manifest.flavour, dtype) for dtype in kv_dtypes(manifest.flavour)}
    unlisted = sorted(wanted - set(manifest.files))
    if unlisted:
        raise BundleError(f"{bundle.path}: the manifest does not list {', '.join(unlisted)}; export the bundle again")


def _check_references(bundle: Bundle, graph: str) -> None:
    """The files in which the graph says its weights lie are the bundle's own.

    In an ONNX file that is an entry of key "location" (`onnx.proto`: TensorProto.external_data), and its bytes stand
    in the file as they are, so every place where they do must be such an entry, as the exporter writes them.
    """
    data = read_regular(bundle.path / graph, _MAX_GRAPH_BYTES)
    place = data.find(_LOCATION)
    while place >= 0:
        end = place + len(_LOCATION)
        name = data[end + 2 : end + 2 + data[end + 1]] if len(data) > end + 1 and data[end] == 0x12 else b""
        if not 0 < len(name) < 0x80 or name.decode(errors="replace") not in bundle.manifest.files:
            raise BundleError(
                f"{bundle.path}: {graph} has weights in {name[:200]!r}, which the manifest does not list; do not trust "
                "this bundle"
            )
        place = data.find(_LOCATION, end)


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
