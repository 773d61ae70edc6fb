"""An engine of a real, tiny bundle."""

from __future__ import annotations

import itertools
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
    """A context of 2,048 tokens, prefilled in chunks of `CHUNK`; drafts where a request wants them.

    To the engine all runs seem to take equally long: so drafts are as long as they may be, and always the same.
    """
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
    seconds = itertools.count()
    runner = BundleRunner(open_bundle(bundle), settings)
    return Engine(runner, EngineSettings(CHUNK, shared_chunk), clock=lambda: float(next(seconds)))
