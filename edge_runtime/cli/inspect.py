"""`edge-runtime inspect`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from edge_runtime.cli.outcome import reports_errors

if TYPE_CHECKING:
    from edge_runtime.model.manifest import Manifest, ParityReport, TensorFormat


@reports_errors
def inspect(
    bundle: Annotated[str, typer.Argument(help="Folder that edge-export wrote, or pocket: the model that ships.")],
    verify_hashes: Annotated[bool, typer.Option(help="Read every file and compare its SHA-256.")] = False,
) -> None:
    """Show what a bundle holds, how it is quantized, and what its parity gate measured."""
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    from edge_runtime.engine.pocket import bundle_folder  # noqa: PLC0415
    from edge_runtime.model.bundle import open_bundle  # noqa: PLC0415

    manifest = open_bundle(bundle_folder(bundle), verify_hashes=verify_hashes).manifest
    table = Table(box=None, show_header=False)
    for what, value in (*_facts(manifest), *_parity(manifest.parity)):
        table.add_row(what, value)
    if verify_hashes:
        table.add_row("files", f"all {len(manifest.files)} have the SHA-256 of the manifest")
    Console().print(table, highlight=False)


def _facts(manifest: Manifest) -> list[tuple[str, str]]:
    from edge_runtime.devices.memory import format_bytes  # noqa: PLC0415

    text, vision, scheme = manifest.architecture.text, manifest.architecture.vision, manifest.quantization
    defaults = manifest.generation
    size = format_bytes(manifest.size_bytes)
    return [
        ("name", manifest.name),
        ("flavour", f"{manifest.flavour}, format {manifest.format_version}, edge-export {manifest.exporter_version}"),
        ("size", f"{size} in {len(manifest.files)} files"),
        (
            "decoder",
            f"{text.num_layers} layers, hidden {text.hidden_size}, {text.num_attention_heads} heads "
            f"({text.num_kv_heads} key-value), vocabulary {text.vocab_size:,}, "
            f"context up to {text.max_position_embeddings:,}",
        ),
        (
            "vision",
            f"{vision.depth} blocks, hidden {vision.hidden_size}, patch {vision.patch_size}, "
            f"DeepStack taps {list(vision.deepstack_layers)}",
        ),
        (
            "weights",
            f"decoder {_format(scheme.decoder_linear)}, vision {_format(scheme.vision_linear)}, "
            f"LM head {_format(scheme.lm_head)}, embedding {_format(scheme.embedding)}",
        ),
        ("images", f"{manifest.image_processor.min_pixels:,} to {manifest.image_processor.max_pixels:,} pixels"),
        (
            "sampling",
            f"its makers' defaults (the runtime's own is greedy): temperature {defaults.temperature:g}, "
            f"top-k {defaults.top_k}, top-p {defaults.top_p:g}, repetition penalty {defaults.repetition_penalty:g}",
        ),
        ("source", f"SHA-256 {manifest.source_sha256}"),
    ]


def _format(tensors: TensorFormat) -> str:
    return tensors.weights if tensors.block_size is None else f"{tensors.weights} (block {tensors.block_size})"


def _parity(report: ParityReport | None) -> list[tuple[str, str]]:
    if report is None:
        return [("parity", "not measured; run edge-export verify")]
    return [
        (
            "parity",
            f"{'passed' if report.passed else 'FAILED'}, against {report.reference}, {report.num_prompts} prompts",
        ),
        ("", f"greedy tokens equal {report.greedy_tokens_equal} of {report.greedy_tokens_compared}"),
        ("", f"vision cosine {report.vision_cosine:.6f}, mean KL {report.mean_kl:.2e}"),
        ("", f"logit error max {report.max_abs_logit_error:.2e}, mean {report.mean_abs_logit_error:.2e}"),
    ]
