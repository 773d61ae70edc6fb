"""`config.json` to `Architecture`. Knows no other file of the checkpoint.

Field names and meanings: transformers, models/qwen3_vl/configuration_qwen3_vl.py. Rotary settings are those of
interleaved M-RoPE of the default kind, in the spellings it has had: transformers 4.57 writes `rope_theta` and
`rope_scaling`, 5.x `rope_parameters`; kinds are named by `rope_type`, by `type` in older files, and Qwen2-VL's "mrope"
is the default one with sections.
"""

from __future__ import annotations

import math
from typing import Literal, cast

from edge_export.checkpoint.head import tie_flags
from edge_export.checkpoint.json_file import JsonObject, short
from edge_export.checkpoint.shards import Warn
from edge_export.errors import ConfigError
from edge_export.families.qwen3_vl.features import check_features
from edge_runtime.families.qwen3_vl.config import Architecture, TextArchitecture, VisionArchitecture

_ROPE_KINDS = ("default", "mrope")

_ROPE_FIELDS = (
    "rope_type",
    "type",
    "rope_theta",
    "mrope_section",
    "mrope_interleaved",
    "partial_rotary_factor",
    "factor",
)
_MIN_THETA = 1.0
"""At a base of 1 all frequencies are the same; below, they would rise."""


def read_architecture(config: JsonObject, warn: Warn = lambda _: None) -> Architecture:
    """The sizes of a dense Qwen3-VL model; whether head and embedding are one is what the config says first.

    `warn` is told of fields that nobody here has heard of. Raises `ConfigError` for any other model, a missing field,
    or a feature that is not exported.
    """
    check_features(config, warn)
    vision = _read_vision(config.child("vision_config"))
    text = _read_text(config)
    if vision.out_hidden_size != text.hidden_size:
        raise ConfigError(
            f"{config.place}: vision_config.out_hidden_size is {vision.out_hidden_size} but text_config.hidden_size "
            f"is {text.hidden_size}; image embeddings could not enter the decoder"
        )
    if len(vision.deepstack_layers) > text.num_layers:
        raise ConfigError(
            f"{config.place}: {len(vision.deepstack_layers)} DeepStack taps for {text.num_layers} decoder layers; "
            "tap i is added after decoder layer i, so there can be no more taps than layers"
        )
    return Architecture(model_type="qwen3_vl", vision=vision, text=text)


def _read_vision(config: JsonObject) -> VisionArchitecture:
    activation = config.string("hidden_act")
    if activation not in ("gelu", "gelu_pytorch_tanh"):
        raise ConfigError(f"{config.place}: hidden_act is {activation!r}; known are 'gelu' and 'gelu_pytorch_tanh'")
    vision = VisionArchitecture(
        depth=config.integer("depth"),
        hidden_size=config.integer("hidden_size"),
        intermediate_size=config.integer("intermediate_size"),
        num_heads=config.integer("num_heads"),
        in_channels=config.integer("in_channels"),
        patch_size=config.integer("patch_size"),
        temporal_patch_size=config.integer("temporal_patch_size"),
        spatial_merge_size=config.integer("spatial_merge_size"),
        num_position_embeddings=config.integer("num_position_embeddings"),
        out_hidden_size=config.integer("out_hidden_size"),
        hidden_act=cast(Literal["gelu", "gelu_pytorch_tanh"], activation),
        deepstack_layers=config.integers("deepstack_visual_indexes"),
    )
    _check_divides(config, "num_heads", vision.num_heads, "hidden_size", vision.hidden_size)
    if vision.in_channels != 3:
        raise ConfigError(f"{config.place}: in_channels is {vision.in_channels}; pictures have 3")
    if math.isqrt(vision.num_position_embeddings) ** 2 != vision.num_position_embeddings:
        raise ConfigError(
            f"{config.place}: num_position_embeddings is {vision.num_position_embeddings}; the table is a square"
        )
    if vision.head_dim % 4:
        raise ConfigError(f"{config.place}: the head width is {vision.head_dim}; 2-D rotary needs a multiple of 4")
    taps = vision.deepstack_layers
    if list(taps) != sorted(set(taps)) or any(not 0 <= tap < vision.depth for tap in taps):
        raise ConfigError(
            f"{config.place}: deepstack_visual_indexes is {list(taps)}; "
            f"they must rise and lie below depth {vision.depth}"
        )
    return vision


def _read_text(root: JsonObject) -> TextArchitecture:
    config = root.child("text_config")
    if (activation := config.string("hidden_act")) != "silu":
        raise ConfigError(f"{config.place}: hidden_act is {activation!r}; Qwen3-VL decoders have 'silu'")
    rope_theta, mrope_section = _read_rope(config)
    text = TextArchitecture(
        num_layers=config.integer("num_hidden_layers"),
        hidden_size=config.integer("hidden_size"),
        intermediate_size=config.integer("intermediate_size"),
        num_attention_heads=config.integer("num_attention_heads"),
        num_kv_heads=config.integer("num_key_value_heads"),
        head_dim=config.integer("head_dim"),
        vocab_size=config.integer("vocab_size"),
        rms_norm_eps=config.number("rms_norm_eps", minimum=1e-12, maximum=1.0),
        rope_theta=rope_theta,
        mrope_section=mrope_section,
        max_position_embeddings=config.integer("max_position_embeddings"),
        tie_word_embeddings=True in tie_flags(root),
    )
    _check_divides(config, "num_key_value_heads", text.num_kv_heads, "num_attention_heads", text.num_attention_heads)
    if text.head_dim % 8:
        raise ConfigError(f"{config.place}: head_dim is {text.head_dim}; attention kernels take multiples of 8")
    if sum(mrope_section) * 2 != text.head_dim:
        raise ConfigError(
            f"{config.place}: mrope_section {list(mrope_section)} covers {sum(mrope_section)} frequencies; "
            f"head_dim {text.head_dim} has {text.head_dim // 2}"
        )
    return text


def _read_rope(config: JsonObject) -> tuple[float, tuple[int, int, int]]:
    """`rope_theta` and the three sections of interleaved M-RoPE.

    Raises `ConfigError` for another kind, and where two spellings contradict each other.
    """
    places = [config.child(name) for name in ("rope_parameters", "rope_scaling") if name in config]
    if not places:
        config.child("rope_scaling")  # the complaint that it is missing
    for place in places:
        _check_rope_kind(place)
    sections = {place.integers("mrope_section", count=3) for place in places if "mrope_section" in place}
    sections = sections or {places[0].integers("mrope_section", count=3)}
    bases = {place.number("rope_theta", minimum=_MIN_THETA) for place in (*places, config) if "rope_theta" in place}
    if not bases:
        bases = {(places[0] if "rope_parameters" in config else config).number("rope_theta")}
    if negative := [list(section) for section in sections if min(section) < 0]:
        raise ConfigError(f"{config.place}: mrope_section is {negative[0]}; no section can be negative")
    for name, found in (("mrope_section", sections), ("rope_theta", bases)):
        if len(found) > 1:
            raise ConfigError(f"{config.place}: {name} is given twice, as {short(sorted(found))}; make them agree")
    (section,), (theta,) = sections, bases
    return theta, (section[0], section[1], section[2])


def _check_rope_kind(rope: JsonObject) -> None:
    for field in ("rope_type", "type"):
        if field in rope and (kind := rope.string(field)) not in _ROPE_KINDS:
            raise ConfigError(
                f"{rope.place}: {field} is {short(kind)}; only 'default' can be exported. Where it was added to reach "
                "beyond the context of training (as yarn is), take it out"
            )
    if "mrope_interleaved" in rope and not rope.boolean("mrope_interleaved"):
        raise ConfigError(f"{rope.place}: mrope_interleaved is false; Qwen3-VL interleaves its sections")
    for field in ("factor", "partial_rotary_factor"):
        if field in rope and rope.number(field) != 1:
            raise ConfigError(f"{rope.place}: {field} is {short(rope.values[field])}; only 1 can be exported")
    unknown = [name for name, value in rope.values.items() if name not in _ROPE_FIELDS and value is not None]
    if unknown:
        raise ConfigError(
            f"{rope.place}: {short(unknown)} are settings of rotary kinds that cannot be exported; only 'default' can"
        )


def _check_divides(config: JsonObject, name: str, divisor: int, of_name: str, value: int) -> None:
    if value % divisor:
        raise ConfigError(f"{config.place}: {name} {divisor} does not divide {of_name} {value}")
