"""A checkpoint folder as one value: all facts read and checked, weights still on disk."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edge_export.checkpoint.generation import read_generation_defaults
from edge_export.checkpoint.head import refuse_missing_head, settle_head
from edge_export.checkpoint.json_file import read_json
from edge_export.checkpoint.shards import Warn, indexed_names, name_code, refuse_adapter_files
from edge_export.checkpoint.source import model_name, resolve_source
from edge_export.checkpoint.texts import read_chat_template
from edge_export.checkpoint.tokenizer import read_special_tokens, read_special_tokens_map
from edge_export.checkpoint.weights import Weights, check_tensors, open_weights
from edge_export.families.qwen3_vl import family
from edge_runtime.families.qwen3_vl.config import Architecture
from edge_runtime.model.manifest import GenerationDefaults, ImageProcessor, SpecialTokens, VideoProcessor


def log_warning(sentence: str) -> None:
    """Where warnings go by default: to the log, and so, unless somebody sets that up, to standard error."""
    logging.getLogger("edge_export").warning(sentence)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Everything known about a checkpoint."""

    name: str
    folder: Path
    architecture: Architecture
    image_processor: ImageProcessor
    video_processor: VideoProcessor
    special_tokens: SpecialTokens
    special_tokens_map: dict[str, str | tuple[str, ...]]
    generation: GenerationDefaults
    chat_template: str
    weights: Weights

    def sha256(self, on_read: Callable[[int], None] = lambda _: None) -> str:
        """Identity of the checkpoint (`Manifest.source_sha256`): reads every byte of `config.json` and the weights.

        `on_read` is told the number of bytes after each piece.
        """
        return self.weights.sha256(self.folder / "config.json", on_read)


def open_checkpoint(source: str, warn: Warn = log_warning) -> Checkpoint:
    """Read a checkpoint folder, or download one from the hub. Raises `ExportError` (see edge_export.errors).

    `warn` is told, in one sentence each, of what the folder holds and the export leaves out or understands in its own
    way.
    """
    folder = resolve_source(source)
    refuse_adapter_files(folder)
    config = read_json(folder / "config.json")
    architecture = family.read_architecture(config, warn)
    name_code(folder, warn)
    refuse_missing_head(indexed_names(folder), config, folder)
    tied, weights = settle_head(open_weights(folder, warn), config, warn)
    text = msgspec.structs.replace(architecture.text, tie_word_embeddings=tied)
    return Checkpoint(
        name=model_name(source, folder, config),
        folder=folder,
        architecture=msgspec.structs.replace(architecture, text=text),
        image_processor=family.read_image_processor(folder, architecture.vision, warn),
        video_processor=family.read_video_processor(folder, architecture.vision, warn),
        special_tokens=read_special_tokens(folder, config, architecture.text.vocab_size),
        special_tokens_map=read_special_tokens_map(folder),
        generation=read_generation_defaults(folder, warn),
        chat_template=read_chat_template(folder),
        weights=check_tensors(weights, family.model_tensors(architecture, tied=tied), warn),
    )
