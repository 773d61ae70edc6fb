"""What a server says of its model: from a planned bundle to the wire's `ModelInfo`."""

from __future__ import annotations

from edge_runtime import __version__
from edge_runtime.devices.memory import MemoryPlan
from edge_runtime.engine.load import PlannedBundle
from edge_runtime.engine.request import DEFAULT_MAX_TOKENS
from edge_runtime.model.manifest import Manifest
from edge_runtime.serving.messages import ModelInfo, VideoSampling

QUESTION_TOKENS = 512
"""Room for words that is kept beside a clip, in addition to an answer's."""


def model_info(planned: PlannedBundle) -> ModelInfo:
    """What a server tells about the model."""
    manifest = planned.bundle.manifest
    return ModelInfo(
        model=manifest.name,
        flavour=manifest.flavour,
        max_context=planned.plan.context_tokens,
        max_pixels=min(planned.plan.max_pixels, manifest.image_processor.max_pixels),
        video=video_sampling(manifest, planned.plan),
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
