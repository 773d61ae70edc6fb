"""Qwen3-VL as the rest of the export sees it: whatever is asked of a family. Another one is a module like this."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edge_export.families.qwen3_vl.config import read_architecture
from edge_export.families.qwen3_vl.decoder_graph import build_decoder
from edge_export.families.qwen3_vl.layers import Layers
from edge_export.families.qwen3_vl.layers_edge import EdgeLayers
from edge_export.families.qwen3_vl.layers_portable import PortableLayers
from edge_export.families.qwen3_vl.processors import read_image_processor, read_video_processor
from edge_export.families.qwen3_vl.tensors import model_tensors
from edge_export.families.qwen3_vl.vision_graph import build_vision
from edge_runtime.model.manifest import Flavour, TableLayout, decoder_graph_name, kv_dtypes

__all__ = [
    "build_decoder",
    "build_vision",
    "model_tensors",
    "read_architecture",
    "read_image_processor",
    "read_video_processor",
]


@dataclass(frozen=True, slots=True)
class FlavourParts:
    """What differs between flavours."""

    vision: Layers
    decoders: Mapping[str, Layers]
    """Layers of every decoder graph, by file name; they share their weights."""
    table_layout: TableLayout
    """Of an embedding table that is the LM head's data."""


FLAVOURS: Mapping[Flavour, FlavourParts] = {
    "portable": FlavourParts(PortableLayers(), {decoder_graph_name("portable", "fp32"): PortableLayers()}, "rows"),
    "edge": FlavourParts(
        EdgeLayers(), {decoder_graph_name("edge", dtype): EdgeLayers(dtype) for dtype in kv_dtypes("edge")}, "packed"
    ),
}
