"""A bundle by the name a caller has for it, loaded here or described to clients."""

from __future__ import annotations

from pathlib import Path

from edge_runtime import __version__
from edge_runtime.cli.pocket import bundle_folder
from edge_runtime.devices.memory import MemoryPlan, MemoryRequest
from edge_runtime.engine import load as engine_load
from edge_runtime.engine.engine import Engine
from edge_runtime.engine.request import DEFAULT_MAX_TOKENS
from edge_runtime.model.manifest import Manifest
from edge_runtime.serving.messages import ModelInfo, VideoSampling

QUESTION_TOKENS = 512
"""Room for words that is kept beside a clip, in addition to an answer's."""


def load(bundle: str | Path, profile: str = "auto", memory: MemoryRequest | None = None) -> Engine:
    """The engine of a bundle folder, or of `pocket`, the model that ships; planned for this machine or for `profile`.

    Raises `BundleError`, `ProfileError`, `DoesNotFit`, or `BadParameter` for a `memory` that the model can never meet.
    """
    return PlannedBundle.open(bundle_folder(str(bundle)), profile, memory or MemoryRequest()).load()


class PlannedBundle(engine_load.PlannedBundle):
    """A planned bundle, and what a server says of it."""

    __slots__ = ()

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
