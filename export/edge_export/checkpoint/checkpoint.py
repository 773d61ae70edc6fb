"""A checkpoint folder as one value: all facts read and checked, weights still on disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge_export.checkpoint.config import read_architecture
from edge_export.checkpoint.hub import resolve_source
from edge_export.checkpoint.json_file import read_json
from edge_export.checkpoint.name import model_name
from edge_export.checkpoint.processors import read_generation_defaults, read_image_processor, read_video_processor
from edge_export.checkpoint.tokenizer import read_chat_template, read_special_tokens
from edge_export.checkpoint.weights import Weights, open_weights
from edge_runtime.model.manifest import (
    Architecture,
    GenerationDefaults,
    ImageProcessor,
    SpecialTokens,
    VideoProcessor,
)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Everything known about a checkpoint."""

    name: str
    folder: Path
    architecture: Architecture
    image_processor: ImageProcessor
    video_processor: VideoProcessor
    special_tokens: SpecialTokens
    generation: GenerationDefaults
    chat_template: str
    weights: Weights

    def sha256(self, on_read: Callable[[int], None] = lambda _: None) -> str:
        """Identity of the checkpoint (`Manifest.source_sha256`): reads every byte of `config.json` and the weights.

        `on_read` is told the number of bytes after each piece.
        """
        return self.weights.sha256(self.folder / "config.json", on_read)


def open_checkpoint(source: str) -> Checkpoint:
    """Read a checkpoint folder, or download one from the hub. Raises `ExportError` (see edge_export.errors)."""
    folder = resolve_source(source)
    config = read_json(folder / "config.json")
    architecture = read_architecture(config)
    return Checkpoint(
        name=model_name(source, folder, config),
        folder=folder,
        architecture=architecture,
        image_processor=read_image_processor(folder, architecture.vision),
        video_processor=read_video_processor(folder, architecture.vision),
        special_tokens=read_special_tokens(folder, config, architecture.text.vocab_size),
        generation=read_generation_defaults(folder),
        chat_template=read_chat_template(folder),
        weights=open_weights(folder),
    )
