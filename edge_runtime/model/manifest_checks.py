"""What the numbers and names in a manifest may be: all that can be known without opening another file.

The types are manifest.py's; here is what they cannot say. The runtime checks what it reads, the exporter what it
writes, so nothing is exported that would be refused. Every check raises `BundleError` with the field's name.
"""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edge_runtime.errors import BundleError
from edge_runtime.families.qwen3_vl.config import (
    Architecture,
    VisionArchitecture,
    check_architecture,
    check_suits_kernels,
)
from edge_runtime.families.record import check_number, check_whole, refuse
from edge_runtime.model.bundle_files import is_clean_text, is_plain_name

if TYPE_CHECKING:
    from edge_runtime.model.manifest import (
        GenerationDefaults,
        ImageProcessor,
        Manifest,
        ParityReport,
        QuantizationScheme,
        SpecialTokens,
        VideoProcessor,
    )

_BLOCK_SIZES = (16, 32, 64, 128, 256)
_MAX_PIXELS = 2**40
_MAX_NAME = 255


def check_manifest(manifest: Manifest) -> None:
    """All of it."""
    check_model(manifest.architecture, manifest.special_tokens, manifest.generation)
    check_processors(manifest.architecture.vision, manifest.image_processor, manifest.video_processor)
    _check_quantization(manifest.quantization, manifest.flavour == "edge")
    if manifest.flavour == "edge":
        check_suits_kernels(manifest.architecture)
    _check_files(manifest)
    _check_embedding(manifest)
    for name in ("name", "exporter_version"):
        if not 0 < len(getattr(manifest, name)) <= _MAX_NAME or not is_clean_text(getattr(manifest, name)):
            raise BundleError(f"{name} is {getattr(manifest, name)!r:.300}; it must be 1 to {_MAX_NAME} characters")
    _check_hash("source_sha256", manifest.source_sha256)
    for error in manifest.tensor_errors:
        check_number(f"tensor_errors: {error.name!r:.300}: relative_rms", error.relative_rms, 0.0, math.inf)
        check_number(f"tensor_errors: {error.name!r:.300}: max_abs", error.max_abs, 0.0, math.inf)
    if manifest.parity is not None:
        _check_parity(manifest.parity)


def check_model(architecture: Architecture, special: SpecialTokens, generation: GenerationDefaults) -> None:
    """What a checkpoint's configuration says of the model itself."""
    check_architecture(architecture)
    _check_special_tokens(special, architecture.text.vocab_size)
    check_number("generation.temperature", generation.temperature, 0.0, 100.0)
    check_whole("generation.top_k", generation.top_k, 0, 2**31)
    check_number("generation.top_p", generation.top_p, 1e-6, 1.0)
    check_number("generation.repetition_penalty", generation.repetition_penalty, 1e-3, 100.0)


def check_processors(vision: VisionArchitecture, image: ImageProcessor, video: VideoProcessor) -> None:
    """What a checkpoint's preprocessor files say; `vision` must be checked already."""
    smallest = (vision.patch_size * vision.spatial_merge_size) ** 2
    for name, processor in (("image_processor", image), ("video_processor", video)):
        check_whole(f"{name}.max_pixels", processor.max_pixels, smallest, _MAX_PIXELS)
        check_whole(f"{name}.min_pixels", processor.min_pixels, 1, processor.max_pixels)
        for i in range(3):
            check_number(f"{name}.mean[{i}]", processor.mean[i], -1e3, 1e3)
            check_number(f"{name}.std[{i}]", processor.std[i], 1e-6, 1e3)
    check_number("video_processor.fps", video.fps, 1e-3, 1e3)
    check_whole("video_processor.max_frames", video.max_frames, vision.temporal_patch_size, 2**20)
    check_whole("video_processor.min_frames", video.min_frames, 1, video.max_frames)


def _check_special_tokens(special: SpecialTokens, vocab_size: int) -> None:
    single = ["image_pad", "video_pad", "vision_start", "vision_end"]
    if (special.think_start is None) != (special.think_end is None):
        raise BundleError("special_tokens has one of think_start and think_end; it must have both or none")
    if special.think_start is not None:
        single += ["think_start", "think_end"]
    ids = [getattr(special, name) for name in single]
    for name, token_id in (*zip(single, ids, strict=True), *(("eos", token_id) for token_id in special.eos)):
        check_whole(f"special_tokens.{name}", token_id, 0, vocab_size - 1)
    if len(set(ids)) < len(ids):
        raise BundleError(f"special_tokens: {', '.join(single)} are {ids}; they must differ")
    if not special.eos or set(special.eos) & set(ids):
        refuse("special_tokens.eos", list(special.eos), "one token or more, none of them another special token")


def _check_quantization(scheme: QuantizationScheme, is_edge: bool) -> None:
    for name in ("decoder_linear", "vision_linear", "lm_head", "embedding"):
        stored = getattr(scheme, name)
        if (stored.block_size is None) != (stored.weights == "fp32"):
            raise BundleError(f"quantization.{name} is {stored.weights}, block_size {stored.block_size}; fp32 has none")
        if stored.block_size is not None and stored.block_size not in _BLOCK_SIZES:
            refuse(f"quantization.{name}.block_size", stored.block_size, f"one of {', '.join(map(str, _BLOCK_SIZES))}")
        if is_edge and stored.weights == "fp32":
            refuse(f"quantization.{name}.weights", stored.weights, "int4 or int8 in a bundle of flavour 'edge'")
    if scheme.embedding.weights == "int4":
        refuse("quantization.embedding.weights", scheme.embedding.weights, "int8 or fp32")


def _check_files(manifest: Manifest) -> None:
    for name, entry in manifest.files.items():
        if not is_plain_name(name):
            raise BundleError(f"files has {name!r:.300}, which may lie outside the folder; do not trust this bundle")
        check_whole(f"files: {name}: size_bytes", entry.size_bytes, 0, 2**62)
        _check_hash(f"files: {name}: sha256", entry.sha256)


def _check_embedding(manifest: Manifest) -> None:
    """The table and its scales lie inside their files, apart from each other."""
    table, stored = manifest.embedding, manifest.quantization.embedding
    rows, width = manifest.architecture.text.vocab_size, manifest.architecture.text.hidden_size
    parts = [(table.file, table.data_offset, rows * width * 4)]
    if stored.block_size is None:
        if table.scale_file is not None or table.scale_offset is not None or table.layout != "rows":
            raise BundleError("embedding is fp32 and has scales, or is packed; it must be plain rows")
    else:
        if table.scale_file is None or table.scale_offset is None:
            raise BundleError("embedding is int8 and lacks scale_file or scale_offset; it must have both")
        if width % stored.block_size:
            refuse("quantization.embedding.block_size", stored.block_size, f"a divisor of hidden_size, {width}")
        scale_bytes = 4
        if table.layout == "packed":
            rows, scale_bytes = -(-rows // 16) * 16, 2
        parts = [
            (table.file, table.data_offset, rows * width),
            (table.scale_file, table.scale_offset, rows * (width // stored.block_size) * scale_bytes),
        ]
    for name, offset, size in parts:
        if name not in manifest.files:
            raise BundleError(f"embedding lies in {name!r:.300}, which files does not list")
        if offset < 0 or offset % 4 or offset + size > manifest.files[name].size_bytes:
            raise BundleError(
                f"embedding takes {size} bytes of {name} from {offset}; that file has {manifest.files[name].size_bytes}"
            )
    if _overlap(parts):
        raise BundleError(f"embedding: its values and scales overlap in {table.file}")


def _overlap(parts: Sequence[tuple[str, int, int]]) -> bool:
    if len(parts) == 1 or parts[0][0] != parts[1][0]:
        return False
    (_, first, size), (_, second, _) = sorted(parts)
    return first + size > second


def _check_parity(parity: ParityReport) -> None:
    check_whole("parity.num_prompts", parity.num_prompts, 1, 2**31)
    check_whole("parity.greedy_tokens_compared", parity.greedy_tokens_compared, 0, 2**31)
    check_whole("parity.greedy_tokens_equal", parity.greedy_tokens_equal, 0, parity.greedy_tokens_compared)
    for name in ("vision_cosine", "max_abs_logit_error", "mean_abs_logit_error", "mean_kl", "mean_kl_to_rounded"):
        figure = getattr(parity, name)
        if figure is not None:
            check_number(f"parity.{name}", figure, -math.inf, math.inf)


def _check_hash(name: str, value: str) -> None:
    if len(value) != 64 or not set(value) <= set(string.hexdigits):
        raise BundleError(f"{name} is {value!r:.100}; it must be a SHA-256, 64 hexadecimal digits")
