"""The whole export, read top to bottom. Knows no command line: the caller brings options and a progress callback."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import msgspec

import edge_export
from edge_export.bundle_writer import BundleWriter
from edge_export.checkpoint.checkpoint import Checkpoint, open_checkpoint
from edge_export.decoder_graph import EMBEDDING_NAME, HEAD_NAME, build_decoder
from edge_export.errors import ParityFailed
from edge_export.options import ExportOptions, resolve_scheme
from edge_export.sizes import bundle_bytes, num_parameters, shares_head, source_bytes
from edge_export.tensor_file import TensorFile
from edge_export.vision_graph import build_vision
from edge_export.weight_writer import StoredMatrix, WeightWriter
from edge_runtime.model.manifest import (
    FORMAT_VERSION,
    EmbeddingTable,
    Manifest,
    ParityReport,
    QuantizationScheme,
    TensorError,
)

GATED_PARAMETERS = 100_000_000
"""Models up to this size pass the parity gate as part of the export: the numpy reference is not fast."""

COPIED_FILES = ("tokenizer.json", "README.md", "LICENSE", "LICENSE.txt", "LICENSE.md")


class Progress(Protocol):
    """Told how far an export is."""

    def start(self, stage: str, total_bytes: int) -> None:
        """A stage begins that works off `total_bytes` of the checkpoint."""

    def advance(self, num_bytes: int) -> None:
        """That many bytes more are done."""


def export_bundle(source: str, out: Path, options: ExportOptions, progress: Progress) -> Manifest:
    """Export the checkpoint `source` (a folder or hub id) to the bundle folder `out`. Raises `ExportError`."""
    checkpoint = open_checkpoint(source)
    scheme = resolve_scheme(options, checkpoint.architecture)
    needed_bytes = bundle_bytes(checkpoint.weights, scheme, tied=checkpoint.architecture.text.tie_word_embeddings)
    with BundleWriter(out, force=options.force, needed_bytes=needed_bytes) as bundle:
        copy_text_files(bundle, checkpoint)
        vision_errors = write_vision(bundle, checkpoint, scheme, progress)
        decoder_errors, embedding = write_decoder(bundle, checkpoint, scheme, progress)
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            name=checkpoint.name,
            flavour=options.flavour,
            architecture=checkpoint.architecture,
            quantization=scheme,
            embedding=embedding,
            image_processor=checkpoint.image_processor,
            video_processor=checkpoint.video_processor,
            special_tokens=checkpoint.special_tokens,
            generation=checkpoint.generation,
            files=bundle.entries,
            source_sha256=hash_source(checkpoint, progress),
            exporter_version=edge_export.__version__,
            tensor_errors=(*vision_errors, *decoder_errors),
        )
        bundle.write_manifest(manifest)
        if num_parameters(checkpoint.weights) <= GATED_PARAMETERS:
            manifest = msgspec.structs.replace(manifest, parity=pass_gate(bundle.folder, checkpoint))
            bundle.write_manifest(manifest)
        bundle.commit()
    return manifest


def copy_text_files(bundle: BundleWriter, checkpoint: Checkpoint) -> None:
    """Tokenizer, chat template, licence and model card."""
    bundle.write_file("chat_template.jinja", checkpoint.chat_template.encode())
    for name in COPIED_FILES:
        if (path := checkpoint.folder / name).is_file():
            bundle.write_file(name, path.read_bytes())


def write_vision(
    bundle: BundleWriter, checkpoint: Checkpoint, scheme: QuantizationScheme, progress: Progress
) -> list[TensorError]:
    """`vision.onnx` and its weights."""
    progress.start("vision", source_bytes(checkpoint.weights, "model.visual."))
    with bundle.open_file("vision.onnx.data") as data:
        writer = WeightWriter(checkpoint.weights, TensorFile(data), progress.advance)
        graph = build_vision(checkpoint.architecture.vision, scheme.vision_linear, writer)
    bundle.write_file("vision.onnx", graph.serialize(edge_export.__version__))
    return writer.errors


def write_decoder(
    bundle: BundleWriter, checkpoint: Checkpoint, scheme: QuantizationScheme, progress: Progress
) -> tuple[list[TensorError], EmbeddingTable]:
    """`decoder.onnx` and its weights, and the embedding table: the LM head's own data where the two are one."""
    text, num_taps = checkpoint.architecture.text, len(checkpoint.architecture.vision.deepstack_layers)
    shared = shares_head(scheme, tied=text.tie_word_embeddings)
    read_twice = source_bytes(checkpoint.weights, EMBEDDING_NAME) if text.tie_word_embeddings and not shared else 0
    progress.start("decoder", source_bytes(checkpoint.weights, "model.language_model.", HEAD_NAME) + read_twice)
    with bundle.open_file("decoder.onnx.data") as data:
        writer = WeightWriter(checkpoint.weights, TensorFile(data), progress.advance)
        graph, head = build_decoder(text, num_taps, scheme, writer)
    bundle.write_file("decoder.onnx", graph.serialize(edge_export.__version__))
    if shared:
        return writer.errors, _embedding_table(head)
    with bundle.open_file("embedding.bin") as data:
        writer.file = TensorFile(data)
        table = writer.matrix(EMBEDDING_NAME, (text.vocab_size, text.hidden_size), scheme.embedding)
    return writer.errors, _embedding_table(table)


def hash_source(checkpoint: Checkpoint, progress: Progress) -> str:
    """SHA-256 of the source checkpoint."""
    progress.start("source hash", sum(shard.stat().st_size for shard in checkpoint.weights.shards))
    return checkpoint.sha256(progress.advance)


def pass_gate(folder: Path, checkpoint: Checkpoint) -> ParityReport:
    """Compare the bundle with the numpy reference. Raises `ParityFailed` past the thresholds."""
    from edge_export.verify.gate import run_gate  # noqa: PLC0415 - it needs ONNX Runtime, the export does not

    report = run_gate(folder, checkpoint.folder, "numpy")
    if not report.passed:
        raise ParityFailed(
            f"the bundle does not compute what the checkpoint does, so it was not kept: vision cosine "
            f"{report.vision_cosine:.6f}, largest logit error {report.max_abs_logit_error:.3g}, "
            f"KL {report.mean_kl:.3g}, {report.greedy_tokens_equal} of {report.greedy_tokens_compared} greedy tokens "
            "equal; a finer format (--weights int8 or fp32, a smaller --block-size) may pass, and fp32 must: if it "
            "fails, report a bug"
        )
    return report


def _embedding_table(matrix: StoredMatrix) -> EmbeddingTable:
    return EmbeddingTable(
        file=matrix.values.file,
        data_offset=matrix.values.offset,
        scale_file=None if matrix.scales is None else matrix.scales.file,
        scale_offset=None if matrix.scales is None else matrix.scales.offset,
    )
