"""What keys and values depend on beside their tokens: the model, and how they are stored. Knows no graph, no file."""

from __future__ import annotations

import hashlib

import msgspec

from edge_runtime.devices.profile import KVDtype
from edge_runtime.model.manifest import Manifest


class Fingerprint(msgspec.Struct, frozen=True, kw_only=True):
    """Of a loaded bundle. Equal ones compute the same."""

    model: str
    manifest: str
    """BLAKE2b of the manifest, which has the SHA-256 of every file; without what was measured of the bundle."""
    flavour: str
    kv_dtype: str
    num_layers: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int

    def difference(self, other: Fingerprint) -> str | None:
        """The first thing in which `other` differs, and how; None if it is the same."""
        for field, name in (
            ("model", "model"),
            ("flavour", "flavour"),
            ("kv_dtype", "KV dtype"),
            ("num_layers", "number of layers"),
            ("num_kv_heads", "number of KV heads"),
            ("head_dim", "head dimension"),
            ("vocab_size", "vocabulary size"),
            ("manifest", "bundle, under the same name,"),
        ):
            ours, theirs = getattr(self, field), getattr(other, field)
            if ours != theirs:
                return f"{name} {ours:.80}" if isinstance(ours, str) else f"{name} {ours}"
        return None


def fingerprint(manifest: Manifest, kv_dtype: KVDtype) -> Fingerprint:
    """That of a bundle run with `kv_dtype`."""
    text = manifest.architecture.text
    measured = msgspec.structs.replace(manifest, parity=None)
    return Fingerprint(
        model=manifest.name,
        manifest=hashlib.blake2b(msgspec.json.encode(measured), digest_size=16).hexdigest(),
        flavour=manifest.flavour,
        kv_dtype=kv_dtype,
        num_layers=text.num_layers,
        num_kv_heads=text.num_kv_heads,
        head_dim=text.head_dim,
        vocab_size=text.vocab_size,
    )
