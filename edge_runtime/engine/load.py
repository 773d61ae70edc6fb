"""From a bundle folder to an engine: check, plan memory, load. The glue that the command line and the server call."""

from __future__ import annotations

from pathlib import Path

from edge_kernels.library import KernelError, KernelLibrary
from edge_runtime.devices.planner import MemoryPlan, MemoryRequest, plan_memory
from edge_runtime.devices.select import ResolvedProfile
from edge_runtime.engine.bundle_runner import BundleRunner, RunnerSettings
from edge_runtime.engine.engine import Engine
from edge_runtime.engine.settings import EngineSettings
from edge_runtime.errors import BundleError
from edge_runtime.model.bundle import Bundle, open_bundle, refuse_failed
from edge_runtime.model.footprint import footprint
from edge_runtime.model.graph import GraphSettings, choose_execution_provider
from edge_runtime.vision.image import ImageLimits


def plan_bundle(
    path: Path, profile: ResolvedProfile, request: MemoryRequest, *, verify_hashes: bool = False
) -> tuple[Bundle, MemoryPlan]:
    """Open a bundle and decide what of it fits; loads nothing.

    Raises `BundleError`, also for a bundle whose parity gate failed, `DoesNotFit`, or `BadParameter` for a request the
    model can never meet.
    """
    bundle = open_bundle(path, verify_hashes=verify_hashes)
    refuse_failed(bundle)
    return bundle, plan_memory(footprint(bundle.manifest), profile, request)


def load_engine(
    bundle: Bundle, profile: ResolvedProfile, plan: MemoryPlan, *, image_limits: ImageLimits | None = None
) -> Engine:
    """Load the graphs of `bundle` on the profile's threads and make an engine with the plan's limits.

    Raises `BundleError` if the graphs cannot be loaded.
    """
    runner = load_runner(bundle, profile, plan, image_limits=image_limits)
    return Engine(runner, EngineSettings(prefill_chunk=plan.prefill_chunk_tokens, max_running=plan.max_chats))


def load_runner(
    bundle: Bundle, profile: ResolvedProfile, plan: MemoryPlan, *, image_limits: ImageLimits | None = None
) -> BundleRunner:
    """The model alone, for who puts an engine of their own around it. Raises as `load_engine`."""
    kernels = _installed_kernels(bundle)
    graphs = GraphSettings(
        num_threads=profile.threads,
        execution_provider=choose_execution_provider(profile.execution_providers),
        kernels=kernels if bundle.manifest.flavour == "edge" else None,
    )
    settings = RunnerSettings(
        max_context=plan.context_tokens,
        max_cache_tokens=plan.kv_tokens,
        max_pixels=plan.max_pixels,
        graphs=graphs,
        image_limits=image_limits or ImageLimits(max_decode_bytes=plan.decoding_bytes),
        kv_dtype=plan.kv_dtype,
        kernels=kernels,
    )
    return BundleRunner(bundle, settings)


def _installed_kernels(bundle: Bundle) -> KernelLibrary | None:
    """Our kernels, or None where the package has none. Raises `BundleError` if `bundle` cannot do without."""
    try:
        return KernelLibrary()
    except KernelError as error:
        if bundle.manifest.flavour == "portable":
            return None
        raise BundleError(
            f"{bundle.path} is of flavour 'edge', which needs our kernels: {error}; or export the model again with "
            "--flavour portable"
        ) from error
