"""What a configuration asks for and the exporter does not do: refused by name, in every spelling known.

Fields that change no answer are passed over, and any other that nobody here has heard of is named in a warning.
"""

from __future__ import annotations

from typing import Any

from edge_export.checkpoint.json_file import JsonObject, short
from edge_export.checkpoint.shards import Warn
from edge_export.errors import ConfigError

ARCHITECTURES = ("Qwen3VLForConditionalGeneration", "Qwen3VLModel")
TEXT_TYPES = ("qwen3_vl_text", "qwen3")
VISION_TYPES = ("qwen3_vl", "qwen3_vl_vision")
"""Names that one and the same model has had; the field may be absent, too."""

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "attention_bias": (False,),
    "qkv_bias": (False,),
    "mlp_bias": (False,),
    "use_sliding_window": (False,),
    "attention_chunk_size": (),
    "partial_rotary_factor": (1,),
    "rotary_pct": (1,),
    "attn_logit_softcapping": (),
    "final_logit_softcapping": (),
    "logit_scale": (1,),
    "logits_scaling": (1,),
    "attention_multiplier": (),
    "embedding_multiplier": (1,),
    "residual_multiplier": (1,),
    "num_experts": (0, 1),
    "num_local_experts": (0, 1),
    "n_routed_experts": (0,),
    "num_experts_per_tok": (0, 1),
    "moe_intermediate_size": (0,),
    "is_encoder_decoder": (False,),
    "use_qk_norm": (True,),
    "qk_norm": (True,),
    "window_size": (),
    "fullatt_block_indexes": (),
    "auto_map": (),
}
"""Features that are not exported, and the values that switch each off; null does so always."""

_QUANTIZATION = ("quantization_config", "compression_config", "quantization")

_HARMLESS = frozenset(
    {
        *("_attn_implementation", "_attn_implementation_autoset", "_attn_implementation_internal", "_name_or_path"),
        *("architectures", "attention_dropout", "bos_token_id", "chunk_size_feed_forward", "dtype", "torch_dtype"),
        *("eos_token_id", "finetuning_task", "gradient_checkpointing", "id2label", "initializer_range", "label2id"),
        *("max_window_layers", "model_name", "model_type", "output_attentions", "output_hidden_states", "pad_token_id"),
        *("return_dict", "text_config", "tie_word_embeddings", "transformers_version", "transformers.js_config"),
        *("unsloth_fixed", "unsloth_version", "use_cache", "vision_config", "sep_token_id", "problem_type"),
        *("torchscript", "use_bfloat16", "pruned_heads", "tokenizer_class", "task_specific_params", "prefix"),
        *("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id", "vision_token_id"),
        *("image_token_index", "video_token_index", "is_decoder"),
        *_NEUTRAL,
        *_QUANTIZATION,
    }
)
"""Fields that are read elsewhere, or that change no answer: dtypes are those of the weights, dropout is training's."""

_TEXT = frozenset(
    {
        *("head_dim", "hidden_act", "hidden_size", "intermediate_size", "layer_types", "max_position_embeddings"),
        *("num_attention_heads", "num_hidden_layers", "num_key_value_heads", "rms_norm_eps", "rope_parameters"),
        *("rope_scaling", "rope_theta", "sliding_window", "vocab_size"),
    }
)
_VISION = frozenset(
    {
        *("deepstack_visual_indexes", "depth", "hidden_act", "hidden_size", "in_channels", "intermediate_size"),
        *("num_heads", "num_position_embeddings", "out_hidden_size", "patch_size", "spatial_merge_size"),
        *("temporal_patch_size",),
    }
)


def check_features(root: JsonObject, warn: Warn) -> None:
    """Raise `ConfigError` for a feature that is switched on and not exported; `warn` of fields that are not known."""
    text, vision = root.child("text_config"), root.child("vision_config")
    _check_kind(root, text, vision)
    for place in (root, text, vision):
        _refuse_quantization(place)
        _refuse_features(place)
    for place in (root, text):
        _refuse_windows(place)
    for field in sorted(_TEXT):  # some tools change the root, which nobody reads
        if field in root and root.values[field] != text.values.get(field):
            raise ConfigError(
                f"{root.place}: {field} is {short(root.values[field])} at the root and "
                f"{short(text.values.get(field))} in text_config, where transformers reads it; make them agree"
            )
    for place, known in ((root, _TEXT), (text, _TEXT), (vision, _VISION)):
        if fields := place.unknown(known | _HARMLESS):
            warn(f"{place.place}: not read: {fields}")


def _check_kind(root: JsonObject, text: JsonObject, vision: JsonObject) -> None:
    """The model is a dense Qwen3-VL that answers in text, under any name that has meant one."""
    model_type = root.string("model_type")
    if "moe" in model_type:
        raise ConfigError(
            f"{root.place}: model_type is {short(model_type)}, a mixture of experts; only dense Qwen3-VL models "
            "(2B, 4B, 8B, 32B) can be exported"
        )
    if model_type == "cosmos3_omni":
        raise ConfigError(
            f"{root.place}: model_type is 'cosmos3_omni', a Qwen3-VL with generators around it; save the reasoner "
            "alone, as a model of type 'qwen3_vl', and export that"
        )
    if model_type != "qwen3_vl":
        raise ConfigError(f"{root.place}: model_type is {short(model_type)}; only 'qwen3_vl' can be exported")
    for place, names in ((text, TEXT_TYPES), (vision, VISION_TYPES)):
        if "model_type" in place and place.string("model_type") not in names:
            raise ConfigError(
                f"{place.place}: model_type is {short(place.values['model_type'])}; in a Qwen3-VL it is "
                f"{' or '.join(names)}"
            )
    if "architectures" in root:
        found = root.values["architectures"]
        if not isinstance(found, list) or any(name not in ARCHITECTURES for name in found):
            raise ConfigError(
                f"{root.place}: architectures is {short(found)}; only {ARCHITECTURES[0]} can be exported, a model that "
                "answers in text: another class has other outputs, or other code"
            )


def _refuse_quantization(place: JsonObject) -> None:
    for field in _QUANTIZATION:
        if field in place:
            settings = place.values[field]
            method = settings.get("quant_method") if isinstance(settings, dict) else settings
            raise ConfigError(
                f"{place.place}: {field} says that the weights are quantized already, by {short(method)}; the exporter "
                "reads float weights only, so export from the unquantized checkpoint"
            )


def _refuse_features(place: JsonObject) -> None:
    for field, neutral in _NEUTRAL.items():
        value = place.values.get(field)
        if value is None or value in ([], {}) or any(value == off and type(value) is not str for off in neutral):
            continue
        what = (
            "custom code, which the exporter does not run" if field == "auto_map" else "a feature that is not exported"
        )
        raise ConfigError(
            f"{place.place}: {field} is {short(value)}; this is {what}, and leaving it out would give another model "
            "than was trained"
        )


def _refuse_windows(place: JsonObject) -> None:
    """Every layer sees the whole context."""
    types = place.values.get("layer_types")
    if types is not None and (not isinstance(types, list) or any(kind != "full_attention" for kind in types)):
        raise ConfigError(f"{place.place}: layer_types is {short(types)}; only full_attention can be exported")
    # Qwen3's switch decides; without it, a window that is named is meant.
    if "sliding_window" in place and place.values.get("use_sliding_window") is not False:
        raise ConfigError(
            f"{place.place}: sliding_window is {short(place.values['sliding_window'])}; only full attention can be "
            "exported. If the model was trained without a window, set it to null"
        )
