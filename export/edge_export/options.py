"""What the user may choose about an export, and the storage scheme that follows. Pure data and checks."""

from __future__ import annotations

from dataclasses import dataclass

from edge_export.errors import OptionError
from edge_kernels.packing import GROUP
from edge_runtime.families.qwen3_vl.config import Architecture
from edge_runtime.model.manifest import Flavour, QuantizationScheme, TensorFormat, WeightFormat

BLOCK_SIZES = (32, 64, 128)

MAX_EDGE_HEAD_DIM = 256


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """The choices of one export; None leaves a choice to `resolve_flavour` and `resolve_scheme`."""

    weights: WeightFormat = "int4"
    block_size: int = 32
    """Of int4 weights; int8 ones have blocks of 128 where the model allows."""
    vision: WeightFormat | None = None
    lm_head: WeightFormat | None = None
    flavour: Flavour | None = None
    force: bool = False
    gate: bool | None = None
    """Whether the parity gate must be passed; None: for small models, where it costs little."""

    def __post_init__(self) -> None:
        """Raise `OptionError` for a choice that no model can have."""
        _check_choice("--weights", self.weights, ("int4", "int8", "fp32"))
        _check_choice("--block-size", self.block_size, BLOCK_SIZES)
        _check_choice("--vision", self.vision, ("int8", "fp32", None))
        _check_choice("--lm-head", self.lm_head, ("int4", "int8", None))
        _check_choice("--flavour", self.flavour, ("portable", "edge", None))
        if self.flavour == "edge" and "fp32" in (self.weights, self.vision):
            raise OptionError(
                "--flavour edge computes with int4 and int8 weights only; choose --weights int4 or int8 and "
                "--vision int8, or --flavour portable"
            )


@dataclass(frozen=True, slots=True)
class FlavourChoice:
    """What the graphs of one export are made of, and in words why."""

    flavour: Flavour
    reason: str


def resolve_flavour(options: ExportOptions, architecture: Architecture, *, has_kernels: bool) -> FlavourChoice:
    """The flavour that was asked for, else `edge`, the fast one, where nothing speaks against it (decision 46).

    `has_kernels`: whether the kernel library is installed on this machine, which most often is like the device.
    """
    if options.flavour is not None:
        return FlavourChoice(options.flavour, "as asked for")
    if "fp32" in (options.weights, options.vision):
        return FlavourChoice("portable", "edge has no fp32 weights")
    if (misfit := _misfit(architecture)) is not None:
        return FlavourChoice("portable", f"{misfit[0]}, and edge takes {misfit[1]}")
    if not has_kernels:
        return FlavourChoice(
            "portable",
            "no kernel library is installed here (edge-runtime doctor says why); for a device that has it, "
            "--flavour edge is faster",
        )
    return FlavourChoice("edge", "the fast one; a device without the kernel library needs --flavour portable")


def resolve_scheme(options: ExportOptions, architecture: Architecture) -> QuantizationScheme:
    """How each class of tensors is stored.

    With `--weights fp32` everything is fp32 unless asked otherwise; else vision and LM head are int8 unless asked
    otherwise, and the embedding is int8. Raises `OptionError` where the block size or flavour does not suit the model.
    """
    if options.flavour == "edge" and (misfit := _misfit(architecture)) is not None:
        raise OptionError(f"{misfit[0]}, --flavour edge takes {misfit[1]}; choose --flavour portable")
    default: WeightFormat = "fp32" if options.weights == "fp32" else "int8"
    blocks: dict[WeightFormat, int | None] = {"int4": options.block_size, "int8": None, "fp32": None}
    if "int8" in (default, options.weights, options.vision, options.lm_head):
        blocks["int8"] = _int8_block(architecture.text.hidden_size)

    def stored(weights: WeightFormat) -> TensorFormat:
        return TensorFormat(weights=weights, block_size=blocks[weights])

    return QuantizationScheme(
        decoder_linear=stored(options.weights),
        vision_linear=stored(options.vision or default),
        lm_head=stored(options.lm_head or default),
        embedding=stored(default),
    )


def _int8_block(hidden_size: int) -> int:
    """The largest block that rows of the embedding are whole multiples of.

    256 levels leave little to gain from smaller blocks, which cost bytes and multiplications (decision 0025).
    """
    fitting = [size for size in BLOCK_SIZES if hidden_size % size == 0]
    if not fitting:
        raise OptionError(
            f"the model's hidden size is {hidden_size}, rows of the int8 embedding need a multiple of "
            f"{BLOCK_SIZES[0]}; choose --weights fp32"
        )
    return fitting[-1]


def _misfit(architecture: Architecture) -> tuple[str, str] | None:
    """What a model has that the operators of flavour `edge` do not take, and what they do (docs/kernels.md)."""
    text, vision = architecture.text, architecture.vision
    for name, head_dim in (("text_config.head_dim", text.head_dim), ("the vision tower's head_dim", vision.head_dim)):
        if head_dim % 8 or head_dim > MAX_EDGE_HEAD_DIM:
            return f"{name} is {head_dim}", f"multiples of 8 up to {MAX_EDGE_HEAD_DIM}"
    for name, heads in (("num_attention_heads", text.num_attention_heads), ("num_key_value_heads", text.num_kv_heads)):
        if heads * text.head_dim % GROUP:
            return f"{name} x head_dim is {heads * text.head_dim}", f"multiples of {GROUP}"
    return None


def _check_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    if value not in choices:
        names = ", ".join(str(choice) for choice in choices if choice is not None)
        raise OptionError(f"{name} is {value}; choose one of {names}")
