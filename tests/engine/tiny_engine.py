"""An engine of a real, tiny bundle."""

from __future__ import annotations

from pathlib import Path

from edge_kernels.library import KernelLibrary
from edge_runtime.devices.profile import KVDtype
from edge_runtime.engine.bundle_runner import BundleRunner, RunnerSettings
from edge_runtime.engine.engine import Engine
from edge_runtime.engine.settings import EngineSettings
from edge_runtime.model.bundle import open_bundle
from edge_runtime.model.graph import GraphSettings
from edge_runtime.vision.image import ImageLimits

CHUNK = 32


def engine_of(
    bundle: Path,
    kernels: KernelLibrary | None,
    kv_dtype: KVDtype = "fp32",
    cache_tokens: int = 4096,
    shared_chunk: int | None = None,
) -> Engine:
    """A context of 2,048 tokens, prefilled in chunks of `CHUNK`."""
    settings = RunnerSettings(
        2048,
        cache_tokens,
        None,
        GraphSettings(2, kernels=kernels),
        ImageLimits(),
        kv_dtype,
        prefill_chunk=CHUNK,
        feature_cache_bytes=1 << 20,
    )
    return Engine(BundleRunner(open_bundle(bundle), settings), EngineSettings(CHUNK, shared_chunk))
