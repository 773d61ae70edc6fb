"""`manifest.json`: all that is known about a bundle before any of its other files is opened.

The exporter writes it, the runtime reads it; this module is the whole agreement between the two, together with
docs/bundle.md (the graphs' inputs and outputs). It knows nothing of ONNX Runtime, of graphs or of weights.
Unknown fields are refused, architecture fields have no defaults: a missing one is an error, never a guess.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from edge_runtime.devices.profile import KVDtype
from edge_runtime.errors import BundleError
from edge_runtime.families.qwen3_vl.config import Architecture
from edge_runtime.families.record import Record
from edge_runtime.model.bundle_files import check_distinct, read_regular, replace_file
from edge_runtime.model.manifest_checks import check_manifest

FORMAT_VERSION = 2
"""2: the vision graph runs in segments."""

MANIFEST_NAME = "manifest.json"
VISION_GRAPH, VISION_WEIGHTS = "vision.onnx", "vision.onnx.data"
DECODER_WEIGHTS = "decoder.onnx.data"
"""Of all decoder graphs; `decoder_graph_name` has their names."""
EMBEDDING = "embedding.bin"
"""The embedding table, where it is not the LM head's own data."""
TOKENIZER, CHAT_TEMPLATE = "tokenizer.json", "chat_template.jinja"
COMPANIONS = ("README.md", "LICENSE", "LICENSE.txt", "LICENSE.md")
"""Model card and licence, where the checkpoint has them."""

_MAX_MANIFEST_BYTES = 8 * 2**20
"""Thirty times that of an 8B."""

Flavour = Literal["portable", "edge"]
WeightFormat = Literal["int4", "int8", "fp32"]
TableLayout = Literal["rows", "packed"]


class TensorFormat(Record, frozen=True, kw_only=True):
    """How one class of tensors is stored. `block_size` is None for fp32."""

    weights: WeightFormat
    block_size: int | None


class QuantizationScheme(Record, frozen=True, kw_only=True):
    """The storage of every tensor class; norms, biases and position embeddings are always fp32."""

    decoder_linear: TensorFormat
    vision_linear: TensorFormat
    lm_head: TensorFormat
    embedding: TensorFormat


class TensorError(Record, frozen=True, kw_only=True):
    """Round-trip error of one quantized tensor: ||w - dequantize(quantize(w))|| / ||w||."""

    name: str
    weights: WeightFormat
    relative_rms: float
    max_abs: float


class EmbeddingTable(Record, frozen=True, kw_only=True):
    """Where the token embedding rows lie: a raw little-endian file the runtime maps and indexes with numpy.

    fp32: `data` holds float32 [vocab, hidden]. int8: uint8 at `data_offset`, zero point 128, and scales at
    `scale_offset` of `scale_file`; value = (q - 128) * scale. In the layout "rows" that is uint8 [vocab, hidden] and
    float32 [vocab, hidden / block_size]; in "packed" the layout of `edge.Linear` (docs/bundle.md), of which row r is
    column r % 16 of group r / 16. A tied int8 head shares this very data with the decoder graph's LM head.
    """

    layout: TableLayout = "rows"
    file: str
    data_offset: int
    scale_file: str | None
    scale_offset: int | None


class ImageProcessor(Record, frozen=True, kw_only=True):
    """Image limits and normalization (`preprocessor_config.json`); pixel counts are after resizing."""

    min_pixels: int
    max_pixels: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class VideoProcessor(Record, frozen=True, kw_only=True):
    """Video limits (`video_preprocessor_config.json`); pixel counts are frames x height x width of a whole video."""

    min_pixels: int
    max_pixels: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    fps: float
    min_frames: int
    max_frames: int


class SpecialTokens(Record, frozen=True, kw_only=True):
    """Ids the runtime needs by meaning. The think pair is None where the tokenizer has none."""

    image_pad: int
    video_pad: int
    vision_start: int
    vision_end: int
    eos: tuple[int, ...]
    think_start: int | None
    think_end: int | None


class GenerationDefaults(Record, frozen=True, kw_only=True):
    """The checkpoint's own sampling defaults (`generation_config.json`); temperature 0 is greedy."""

    temperature: float
    top_k: int
    top_p: float
    repetition_penalty: float


class FileEntry(Record, frozen=True, kw_only=True):
    """One file of the bundle."""

    size_bytes: int
    sha256: str


class ParityReport(Record, frozen=True, kw_only=True):
    """What the parity gate measured (docs/bundle.md says how).

    JSON has no NaN: `edge-export verify` writes a figure that is no number as the worst there is, -1 or 1e300.
    """

    reference: Literal["numpy", "optimum"]
    passed: bool
    num_prompts: int
    vision_cosine: float
    max_abs_logit_error: float
    mean_abs_logit_error: float
    mean_kl: float
    greedy_tokens_compared: int
    greedy_tokens_equal: int
    mean_kl_to_rounded: float | None = None
    """KL to the reference on equally quantized weights: the graphs' own error. None for fp32, and with optimum."""


class Manifest(Record, frozen=True, kw_only=True):
    """The whole of `manifest.json`."""

    format_version: int
    name: str
    flavour: Flavour
    architecture: Architecture
    quantization: QuantizationScheme
    embedding: EmbeddingTable
    image_processor: ImageProcessor
    video_processor: VideoProcessor
    special_tokens: SpecialTokens
    special_tokens_map: dict[str, str | tuple[str, ...]] = msgspec.field(default_factory=dict)
    """What the chat template sees by name: `bos_token`, `eos_token`, ... (transformers' map of the same name)."""
    generation: GenerationDefaults
    files: dict[str, FileEntry]
    source_sha256: str
    exporter_version: str
    tensor_errors: tuple[TensorError, ...]
    parity: ParityReport | None = None

    @property
    def size_bytes(self) -> int:
        """Bytes of all files it lists: of everything in the bundle but the manifest itself."""
        return sum(entry.size_bytes for entry in self.files.values())


def kv_dtypes(flavour: Flavour) -> tuple[KVDtype, ...]:
    """How the decoder graphs of a bundle can store keys and values: one graph for each."""
    return ("fp32",) if flavour == "portable" else ("fp32", "fp16", "int8")


def decoder_graph_name(flavour: Flavour, kv_dtype: KVDtype) -> str:
    """The bundle's file with the decoder graph that stores keys and values as `kv_dtype`."""
    return "decoder.onnx" if flavour == "portable" else f"decoder.{kv_dtype}.onnx"


def load_manifest(bundle: Path) -> Manifest:
    """Read and check `bundle/manifest.json`.

    Raises `BundleError` if the folder or file is missing, malformed, of a format version we do not know, or says
    anything that manifest_checks.py refuses.
    """
    path = bundle / MANIFEST_NAME
    try:
        if not bundle.is_dir():
            raise BundleError(f"{bundle} is not a folder; give the folder that edge-export wrote")
        if not path.is_file():
            raise BundleError(f"{bundle} has no {MANIFEST_NAME}, so it is not a bundle; make one with edge-export")
        raw = read_regular(path, _MAX_MANIFEST_BYTES)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise BundleError(f"{str(path)!r} cannot be read: {error}; copy the bundle again") from error
    try:
        check_distinct(raw)
        version = msgspec.json.decode(raw, type=_VersionOnly).format_version
        if version != FORMAT_VERSION:
            raise BundleError(
                f"{path} has format version {version}, this runtime reads {FORMAT_VERSION}; "
                "export the bundle again with the edge-export of this release"
            )
        manifest = msgspec.json.decode(raw, type=Manifest)
    except (ValueError, RecursionError) as error:  # msgspec's own errors are ValueErrors
        raise BundleError(f"{path} is not a valid manifest: {error}; export the bundle again") from error
    try:
        check_manifest(manifest)
    except BundleError as error:
        raise BundleError(f"{path}: {error}; export the bundle again") from error
    return manifest


def encode_manifest(manifest: Manifest) -> bytes:
    """The text of `manifest.json`. Raises `BundleError` for a manifest that `load_manifest` would refuse."""
    check_manifest(manifest)
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def save_manifest(manifest: Manifest, bundle: Path) -> None:
    """Replace `bundle/manifest.json` in one step. Raises `BundleError` as `encode_manifest`, and `OSError`."""
    replace_file(bundle / MANIFEST_NAME, encode_manifest(manifest))


class _VersionOnly(msgspec.Struct):
    format_version: int
