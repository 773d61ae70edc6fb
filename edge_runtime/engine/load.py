"""From a bundle, by its folder or its name, to an engine: check, plan memory, load."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from edge_kernels.library import KernelError, KernelLibrary
from edge_runtime.devices.planner import MemoryPlan, MemoryRequest, plan_memory
from edge_runtime.devices.probe import probe_machine
from edge_runtime.devices.select import ResolvedProfile, select_profile
from edge_runtime.engine.bundle_runner import BundleRunner, RunnerSettings
from edge_runtime.engine.engine import Engine
from edge_runtime.engine.option_checks import type_of
from edge_runtime.engine.pocket import bundle_folder
from edge_runtime.engine.session import Sessions
from edge_runtime.engine.session_state import SessionLimits
from edge_runtime.engine.settings import EngineSettings
from edge_runtime.errors import BadParameter, BundleError
from edge_runtime.model.bundle import Bundle, open_bundle, refuse_failed
from edge_runtime.model.footprint import footprint
from edge_runtime.model.graph import GraphSettings, choose_execution_provider
from edge_runtime.vision.image import ImageLimits

_Planned = TypeVar("_Planned", bound="PlannedBundle")

_SHARED_CHUNK = {"portable": None, "edge": 64}
"""By flavour: tokens of a chunk while others decode. What ONNX Runtime's own kernels compute depends on the cuts."""


@dataclass(frozen=True, slots=True)
class PlannedBundle:
    """A bundle, the profile it will run with, and what that will take. Nothing heavy is loaded yet."""

    profile: ResolvedProfile
    bundle: Bundle
    plan: MemoryPlan

    @classmethod
    def open(
        cls: type[_Planned], bundle: str | Path, profile: str = "auto", memory: MemoryRequest | None = None
    ) -> _Planned:
        """Check the bundle and plan its memory, for this machine or for `profile`.

        Raises `BundleError`, `ProfileError`, `DoesNotFit`, or `BadParameter` for a `memory` that is none, or that the
        model can never meet.
        """
        request = MemoryRequest() if memory is None else memory
        if not isinstance(request, MemoryRequest):
            raise BadParameter(f"memory is {type_of(memory)}; wanted MemoryRequest(context_tokens=...)")
        chosen = select_profile(profile, probe_machine())
        return cls(chosen, *plan_bundle(bundle_folder(bundle), chosen, request))

    @property
    def parity_notice(self) -> str | None:
        """What to say of a bundle that was never compared with its checkpoint."""
        if self.bundle.manifest.parity is not None:
            return None
        return f"parity not measured; where the checkpoint is: edge-export verify {self.bundle.path} --source ..."

    def load(self) -> Engine:
        """Load the model as planned. Raises `BundleError`."""
        return load_engine(self.bundle, self.profile, self.plan)


def load(bundle: str | Path, profile: str = "auto", memory: MemoryRequest | None = None) -> Engine:
    """The engine of a bundle folder, or of `pocket`, the model that ships. Raises as `PlannedBundle.open`."""
    return PlannedBundle.open(bundle, profile, memory).load()


def plan_bundle(path: Path, profile: ResolvedProfile, request: MemoryRequest) -> tuple[Bundle, MemoryPlan]:
    """Open a bundle and decide what of it fits; loads nothing.

    Raises `BundleError`, also for a bundle whose parity gate failed, `DoesNotFit`, or `BadParameter` for a request the
    model can never meet.
    """
    bundle = open_bundle(path)
    refuse_failed(bundle)
    return bundle, plan_memory(footprint(bundle.manifest), profile, request)


def load_engine(bundle: Bundle, profile: ResolvedProfile, plan: MemoryPlan) -> Engine:
    """Load the graphs of `bundle` on the profile's threads and make an engine with the plan's limits.

    Raises `BundleError` if the graphs cannot be loaded.
    """
    runner = load_runner(bundle, profile, plan)
    settings = EngineSettings(
        prefill_chunk=plan.prefill_chunk_tokens,
        shared_chunk=_SHARED_CHUNK[bundle.manifest.flavour],
        speculates=bundle.manifest.flavour == "edge",
        max_running=plan.max_chats,
    )
    return Engine(runner, settings, Sessions(SessionLimits(max_bytes=plan.session_bytes)))


def load_runner(bundle: Bundle, profile: ResolvedProfile, plan: MemoryPlan) -> BundleRunner:
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
        image_limits=ImageLimits(max_decode_bytes=plan.decoding_bytes),
        kv_dtype=plan.kv_dtype,
        kernels=kernels,
        prefill_chunk=plan.prefill_chunk_tokens,
        feature_cache_bytes=plan.feature_cache_bytes,
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
