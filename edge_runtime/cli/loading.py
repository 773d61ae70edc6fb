"""From a bundle folder and a profile to a memory plan, and from there to an engine. Used by `ask` and `serve`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge_runtime import __version__
from edge_runtime.devices.memory import MemoryPlan, MemoryRequest
from edge_runtime.devices.probe import probe_machine
from edge_runtime.devices.select import ResolvedProfile, select_profile
from edge_runtime.engine.engine import Engine
from edge_runtime.engine.load import load_engine, plan_bundle
from edge_runtime.engine.request import DEFAULT_MAX_TOKENS
from edge_runtime.model.bundle import Bundle
from edge_runtime.model.manifest import Manifest
from edge_runtime.serving.messages import ModelInfo, VideoSampling

QUESTION_TOKENS = 512
"""Room for words that is kept beside a clip, in addition to an answer's."""


@dataclass(frozen=True, slots=True)
class PlannedBundle:
    """A bundle, the profile it will run with, and what that will take. Nothing heavy is loaded yet."""

    profile: ResolvedProfile
    bundle: Bundle
    plan: MemoryPlan

    @classmethod
    def open(cls, path: Path, profile_name: str, request: MemoryRequest) -> PlannedBundle:
        """Check the bundle and plan its memory. Raises `BundleError`, `ProfileError` or `DoesNotFit`."""
        profile = select_profile(profile_name, probe_machine())
        return cls(profile, *plan_bundle(path, profile, request))

    @property
    def parity_notice(self) -> str | None:
        """What to say of a bundle that was never compared with its checkpoint."""
        if self.bundle.manifest.parity is not None:
            return None
        return f"parity not measured; where the checkpoint is: edge-export verify {self.bundle.path} --source ..."

    def load(self) -> Engine:
        """Load the model as planned. Raises `BundleError`."""
        return load_engine(self.bundle, self.profile, self.plan)

    def model_info(self) -> ModelInfo:
        """What a server tells about the model."""
        manifest = self.bundle.manifest
        return ModelInfo(
            model=manifest.name,
            flavour=manifest.flavour,
            max_context=self.plan.context_tokens,
            max_pixels=min(self.plan.max_pixels, manifest.image_processor.max_pixels),
            video=video_sampling(manifest, self.plan),
            server_version=__version__,
        )


def video_sampling(manifest: Manifest, plan: MemoryPlan) -> VideoSampling:
    """How the model wants its videos, out of what its manifest says about video and patches, and what `plan` allows."""
    video, vision, context = manifest.video_processor, manifest.architecture.vision, plan.context_tokens
    return VideoSampling(
        fps=video.fps,
        min_frames=video.min_frames,
        max_frames=video.max_frames,
        min_pixels=video.min_pixels,
        max_pixels=video.max_pixels,
        patch_size=vision.patch_size,
        spatial_merge_size=vision.spatial_merge_size,
        temporal_patch_size=vision.temporal_patch_size,
        max_tokens=context - min(DEFAULT_MAX_TOKENS + QUESTION_TOKENS, context // 2),
        max_frame_pixels=plan.max_pixels,
    )
