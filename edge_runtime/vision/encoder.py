"""The vision graph behind one class: patches in, embeddings and DeepStack features out. Knows nothing of files."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_runtime.model.cancellation import CancelToken
from edge_runtime.model.manifest import VisionArchitecture
from edge_runtime.model.session import Array, Graph
from edge_runtime.vision.positions import patch_positions


@dataclass(frozen=True, slots=True, eq=False)
class VisionFeatures:
    """What the decoder gets of one image or frame pair of n merged tokens."""

    embeds: NDArray[np.float32]
    """[n, D] rows for `inputs_embeds`."""
    deepstack: NDArray[np.float32]
    """[L, n, D] rows added to the output of the first L decoder layers; L may be 0."""


class VisionEncoder:
    """Runs the vision graph, one temporal patch (an image, or a pair of video frames) at a time."""

    def __init__(self, graph: Graph, architecture: VisionArchitecture) -> None:
        self._graph = graph
        self._architecture = architecture

    def encode(
        self, pixel_values: NDArray[np.float32], grid_h: int, grid_w: int, cancel: CancelToken
    ) -> VisionFeatures:
        """Features of `pixel_values` [grid_h * grid_w, patch_dim], rows in merge order. Raises `Cancelled`."""
        vision = self._architecture
        positions = patch_positions(vision, grid_h, grid_w)
        num_tokens = grid_h * grid_w // vision.spatial_merge_size**2
        # In memory of our own: an output inside the arena would keep its surroundings from being given back.
        embeds = np.empty((num_tokens, vision.out_hidden_size), dtype=np.float32)
        deepstack = np.empty((len(vision.deepstack_layers), *embeds.shape), dtype=np.float32)
        inputs: dict[str, Array] = {
            "pixel_values": pixel_values,
            "pos_index": positions.pos_index,
            "pos_weight": positions.pos_weight,
            "rope_cos": positions.rope_cos,
            "rope_sin": positions.rope_sin,
        }
        outputs: dict[str, Array] = {"image_embeds": embeds}
        if vision.deepstack_layers:
            outputs["deepstack"] = deepstack
        self._graph.run(inputs, outputs, cancel)
        return VisionFeatures(embeds=embeds, deepstack=deepstack)
