"""The whole export, read top to bottom. Knows no command line: the caller brings options and a progress callback."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Protocol

import msgspec

import edge_export
from edge_export.bundle_writer import BundleWriter, check_out
from edge_export.checkpoint.checkpoint import Checkpoint, log_warning, open_checkpoint
from edge_export.checkpoint.layouts import EMBEDDING_NAME, HEAD_NAME
from edge_export.checkpoint.shards import Warn
from edge_export.checkpoint.texts import companion_files
from edge_export.errors import OptionError, ParityFailed
from edge_export.families.qwen3_vl import family
from edge_export.families.qwen3_vl.family import FlavourParts
from edge_export.options import ExportOptions, resolve_flavour, resolve_scheme
from edge_export.sizes import bundle_bytes, num_parameters, shares_head, source_bytes
from edge_export.tensor_file import TensorFile
from edge_export.weight_writer import StoredMatrix, WeightWriter
from edge_export.word_trial import try_words
from edge_kernels.library import KernelError, KernelLibrary
from edge_runtime.model.manifest import (
    CHAT_TEMPLATE,
    DECODER_WEIGHTS,
    EMBEDDING,
    FORMAT_VERSION,
    TOKENIZER,
    VISION_GRAPH,
    VISION_WEIGHTS,
    EmbeddingTable,
    Manifest,
    ParityReport,
    QuantizationScheme,
    TableLayout,
    TensorError,
)

GATED_PARAMETERS = 100_000_000
"""Models up to this size pass the whole parity gate as part of every export. Larger ones pass a quick one if asked to:
ONNX Runtime copies the weights it runs, which for an 8B is more than an export should take."""


class Progress(Protocol):
    """Told how far an export is."""

    def start(self, stage: str, total_bytes: int) -> None:
        """A stage begins that works off `total_bytes` of the checkpoint."""

    def advance(self, num_bytes: int) -> None:
        """That many bytes more are done."""


def export_bundle(
    source: str,
    out: Path,
    options: ExportOptions,
    progress: Progress,
    kernels: KernelLibrary | None = None,
    warn: Warn = log_warning,
) -> Manifest:
    """Export the checkpoint `source` (a folder or hub id) to the bundle folder `out`. Raises `ExportError`.

    `kernels` run the parity gate of a small bundle of flavour `edge`; by default the installed ones, if there are any.
    `warn` is told what of the checkpoint is left out, or understood otherwise than its config has it.
    """
    check_out(out, force=options.force)  # before anything is downloaded or read
    checkpoint = open_checkpoint(source, warn)
    kernels = kernels or find_kernels()
    flavour = resolve_flavour(options, checkpoint.architecture, has_kernels=kernels is not None).flavour
    scheme = resolve_scheme(replace(options, flavour=flavour), checkpoint.architecture)
    kernels = kernels if flavour == "edge" else None
    can_run = flavour == "portable" or kernels is not None
    if options.gate and not can_run:
        raise OptionError("--gate needs our kernels to run a bundle of flavour edge; install them, or leave it out")
    needed_bytes = bundle_bytes(checkpoint.weights, scheme, tied=checkpoint.architecture.text.tie_word_embeddings)
    try_words(checkpoint, warn)
    with BundleWriter(out, force=options.force, needed_bytes=needed_bytes) as bundle:
        copy_text_files(bundle, checkpoint, warn)
        vision_errors = write_vision(bundle, checkpoint, scheme, family.FLAVOURS[flavour], progress)
        decoder_errors, embedding = write_decoder(bundle, checkpoint, scheme, family.FLAVOURS[flavour], progress)
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            name=checkpoint.name,
            flavour=flavour,
            architecture=checkpoint.architecture,
            quantization=scheme,
            embedding=embedding,
            image_processor=checkpoint.image_processor,
            video_processor=checkpoint.video_processor,
            special_tokens=checkpoint.special_tokens,
            special_tokens_map=checkpoint.special_tokens_map,
            generation=checkpoint.generation,
            files=bundle.entries,
            source_sha256=hash_source(checkpoint, progress),
            exporter_version=edge_export.__version__,
            tensor_errors=(*vision_errors, *decoder_errors),
        )
        is_large = num_parameters(checkpoint.weights) > GATED_PARAMETERS
        if can_run and (not is_large if options.gate is None else options.gate):
            report = pass_gate(bundle.folder, manifest, checkpoint, kernels, quick=is_large)
            manifest = msgspec.structs.replace(manifest, parity=report)
        bundle.commit(manifest)
    return manifest


def copy_text_files(bundle: BundleWriter, checkpoint: Checkpoint, warn: Warn) -> None:
    """Tokenizer, chat template, licence and model card."""
    bundle.write_file(CHAT_TEMPLATE, checkpoint.chat_template.encode())
    for path in (checkpoint.folder / TOKENIZER, *companion_files(checkpoint.folder, warn)):
        bundle.write_file(path.name, path.read_bytes())


def write_vision(
    bundle: BundleWriter,
    checkpoint: Checkpoint,
    scheme: QuantizationScheme,
    flavour: FlavourParts,
    progress: Progress,
) -> list[TensorError]:
    """`vision.onnx` and its weights."""
    progress.start("vision", source_bytes(checkpoint.weights, "model.visual."))
    with bundle.open_file(VISION_WEIGHTS) as data:
        writer = WeightWriter(checkpoint.weights, TensorFile(data), progress.advance)
        graph = family.build_vision(checkpoint.architecture.vision, scheme.vision_linear, writer, flavour.vision)
    bundle.write_file(VISION_GRAPH, graph.serialize(edge_export.__version__))
    return writer.errors


def write_decoder(
    bundle: BundleWriter,
    checkpoint: Checkpoint,
    scheme: QuantizationScheme,
    flavour: FlavourParts,
    progress: Progress,
) -> tuple[list[TensorError], EmbeddingTable]:
    """The decoder graphs and their weights, and the embedding table: the LM head's own data where the two are one."""
    text, num_taps = checkpoint.architecture.text, len(checkpoint.architecture.vision.deepstack_layers)
    shared = shares_head(scheme, tied=text.tie_word_embeddings)
    read_twice = source_bytes(checkpoint.weights, EMBEDDING_NAME) if text.tie_word_embeddings and not shared else 0
    progress.start("decoder", source_bytes(checkpoint.weights, "model.language_model.", HEAD_NAME) + read_twice)
    with bundle.open_file(DECODER_WEIGHTS) as data:
        writer = WeightWriter(checkpoint.weights, TensorFile(data), progress.advance)
        graphs = {}
        for name, layers in flavour.decoders.items():
            graphs[name], head = family.build_decoder(text, num_taps, scheme, writer, layers)
    for name, graph in graphs.items():
        bundle.write_file(name, graph.serialize(edge_export.__version__))
    if shared:
        return writer.errors, _embedding_table(head, flavour.table_layout)
    with bundle.open_file(EMBEDDING) as data:
        writer.file = TensorFile(data)
        table = writer.matrix(EMBEDDING_NAME, (text.vocab_size, text.hidden_size), scheme.embedding)
    return writer.errors, _embedding_table(table, "rows")


def hash_source(checkpoint: Checkpoint, progress: Progress) -> str:
    """SHA-256 of the source checkpoint."""
    progress.start("source hash", sum(shard.stat().st_size for shard in checkpoint.weights.shards))
    return checkpoint.sha256(progress.advance)


def find_kernels() -> KernelLibrary | None:
    """The installed kernels, or None: a bundle can be made without them, but not run."""
    try:
        return KernelLibrary()
    except KernelError:
        return None


def pass_gate(
    folder: Path, manifest: Manifest, checkpoint: Checkpoint, kernels: KernelLibrary | None, *, quick: bool
) -> ParityReport:
    """Compare the bundle with the numpy reference. Raises `ParityFailed` past the thresholds.

    The manifest is not in `folder` yet: whatever ends the process now leaves no bundle.
    """
    from edge_export.verify import gate  # noqa: PLC0415 - it needs ONNX Runtime, the export does not

    if quick:
        report = gate.run_quick_gate(folder, manifest, checkpoint.folder, kernels)
    else:
        report = gate.run_gate(folder, checkpoint.folder, "numpy", kernels=kernels, manifest=manifest)
    if not report.passed:
        raise ParityFailed(
            f"the bundle does not compute what the checkpoint does, so it was not kept: vision cosine "
            f"{report.vision_cosine:.6f}, largest logit error {report.max_abs_logit_error:.3g}, "
            f"KL {report.mean_kl:.3g}, {report.greedy_tokens_equal} of {report.greedy_tokens_compared} greedy tokens "
            "equal; a finer format (--weights int8 or fp32, a smaller --block-size) may pass, and fp32 must: if it "
            "fails, report a bug"
        )
    return report


def _embedding_table(matrix: StoredMatrix, layout: TableLayout) -> EmbeddingTable:
    return EmbeddingTable(
        layout=layout,
        file=matrix.values.file,
        data_offset=matrix.values.offset,
        scale_file=None if matrix.scales is None else matrix.scales.file,
        scale_offset=None if matrix.scales is None else matrix.scales.offset,
    )
