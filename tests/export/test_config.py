from __future__ import annotations

import re
from typing import Any

import pytest

from edge_export.checkpoint.json_file import JsonObject
from edge_export.errors import ConfigError
from edge_export.families.qwen3_vl.config import read_architecture
from edge_export.random_checkpoint import config_for

TEXT_FIELDS = [
    "num_hidden_layers",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "max_position_embeddings",
    "hidden_act",
]
VISION_FIELDS = [
    "depth",
    "hidden_size",
    "intermediate_size",
    "num_heads",
    "in_channels",
    "patch_size",
    "temporal_patch_size",
    "spatial_merge_size",
    "num_position_embeddings",
    "out_hidden_size",
    "hidden_act",
    "deepstack_visual_indexes",
]


def read(config: dict[str, Any]) -> Any:
    return read_architecture(JsonObject(config, "config.json"))


def warnings_of(config: dict[str, Any]) -> list[str]:
    warnings: list[str] = []
    read_architecture(JsonObject(config, "config.json"), warnings.append)
    return warnings


def refuse(config: dict[str, Any], *parts: str) -> None:
    """The config is refused with a message that has all `parts`."""
    with pytest.raises(ConfigError) as caught:
        read(config)
    for part in parts:
        assert part in str(caught.value)


def as_transformers_5(config: dict[str, Any]) -> dict[str, Any]:
    text = config["text_config"]
    rope = text.pop("rope_scaling")
    text["rope_parameters"] = {**rope, "rope_theta": text.pop("rope_theta")}
    return config


@pytest.mark.parametrize(("size", "layers", "hidden", "tied"), [("2b", 28, 2048, True), ("8b", 36, 4096, False)])
def test_published_sizes(size: str, layers: int, hidden: int, tied: bool) -> None:
    architecture = read(config_for(size))
    assert architecture.text.num_layers == layers
    assert architecture.text.hidden_size == hidden
    assert architecture.text.tie_word_embeddings is tied
    assert architecture.text.mrope_section == (24, 20, 20)
    assert architecture.vision.patch_dim == 1536


def test_transformers_5_writes_the_same_facts_elsewhere() -> None:
    assert read(as_transformers_5(config_for("4b"))) == read(config_for("4b"))


@pytest.mark.parametrize(("root", "text"), [(a, b) for a in (True, False, None) for b in (True, False, None)])
def test_one_tie_flag_is_enough(root: bool | None, text: bool | None) -> None:
    config = config_for("tiny") | {"tie_word_embeddings": root}
    config["text_config"]["tie_word_embeddings"] = text
    assert read(config).text.tie_word_embeddings is (True in (root, text))


@pytest.mark.parametrize("size", ["tiny", "2b", "4b", "8b"])
def test_nothing_is_said_of_a_plain_config(size: str) -> None:
    for config in (config_for(size), as_transformers_5(config_for(size))):
        assert warnings_of(config | {"dtype": "bfloat16", "id2label": {"0": "LABEL_0"}}) == []


@pytest.mark.parametrize("field", TEXT_FIELDS)
def test_a_missing_text_field_is_never_guessed(field: str) -> None:
    config = config_for("tiny")
    del config["text_config"][field]
    refuse(config, "text_config", field, "original repository")


@pytest.mark.parametrize("field", VISION_FIELDS)
def test_a_missing_vision_field_is_never_guessed(field: str) -> None:
    config = config_for("tiny")
    del config["vision_config"][field]
    refuse(config, "vision_config", field)


@pytest.mark.parametrize("section", ["text_config", "vision_config", "model_type"])
def test_a_missing_section(section: str) -> None:
    config = config_for("tiny")
    del config[section]
    refuse(config, section)


def test_mixture_of_experts_is_refused_by_name() -> None:
    refuse(config_for("tiny") | {"model_type": "qwen3_vl_moe"}, "qwen3_vl_moe", "mixture of experts", "dense")


@pytest.mark.parametrize("model_type", ["qwen2_5_vl", "llama", ""])
def test_other_models_are_refused(model_type: str) -> None:
    refuse(config_for("tiny") | {"model_type": model_type}, repr(model_type), "'qwen3_vl'")


@pytest.mark.parametrize(
    ("section", "field", "value", "message"),
    [
        ("text_config", "hidden_size", "64", "must be an integer"),
        ("text_config", "hidden_size", True, "must be an integer"),
        ("text_config", "num_hidden_layers", 0, "at least 1"),
        ("text_config", "num_key_value_heads", 3, "does not divide"),
        ("text_config", "hidden_act", "gelu", "silu"),
        ("text_config", "attention_bias", True, "attention_bias"),
        ("text_config", "rope_theta", None, "rope_theta"),
        ("text_config", "hidden_size", 128, "out_hidden_size"),
        ("text_config", "num_hidden_layers", 2, "3 DeepStack taps"),
        ("text_config", "rope_scaling", {"rope_type": "yarn", "mrope_section": [6, 5, 5]}, "yarn"),
        ("text_config", "rope_scaling", {"mrope_interleaved": False, "mrope_section": [6, 5, 5]}, "mrope_interleaved"),
        ("text_config", "rope_scaling", {"mrope_section": [6, 5]}, "list of 3"),
        ("text_config", "rope_scaling", {"mrope_section": [6, 5, 6]}, "head_dim"),
        ("text_config", "rope_scaling", {"mrope_section": [6, 5, 5.5]}, "list of integers"),
        ("vision_config", "hidden_act", "relu", "gelu_pytorch_tanh"),
        ("vision_config", "num_heads", 5, "does not divide"),
        ("vision_config", "num_heads", 32, "multiple of 4"),
        ("vision_config", "deepstack_visual_indexes", [1, 0, 2], "must rise"),
        ("vision_config", "deepstack_visual_indexes", [0, 4], "below depth 4"),
        ("vision_config", "deepstack_visual_indexes", ["0"], "list of numbers"),
    ],
)
def test_a_bad_value_is_named(section: str, field: str, value: object, message: str) -> None:
    config = config_for("tiny")
    config[section][field] = value
    with pytest.raises(ConfigError, match=re.escape(message)):
        read(config)


def test_no_deepstack_is_a_valid_choice() -> None:
    config = config_for("tiny")
    config["vision_config"]["deepstack_visual_indexes"] = []
    assert read(config).vision.deepstack_layers == ()


@pytest.mark.parametrize(
    ("section", "model_type"),
    [
        ("text_config", "qwen3_vl_text"),
        ("text_config", "qwen3"),
        ("text_config", None),
        ("vision_config", "qwen3_vl"),
        ("vision_config", "qwen3_vl_vision"),
        ("vision_config", None),
    ],
)
def test_names_that_mean_the_same(section: str, model_type: str | None) -> None:
    config = config_for("tiny")
    config[section]["model_type"] = model_type
    assert read(config) == read(config_for("tiny"))
    config[section]["model_type"] = "qwen2_5_vl"
    refuse(config, section, "model_type is 'qwen2_5_vl'")


@pytest.mark.parametrize("model_type", ["cosmos3_omni", "qwen3_vl_moe", "qwen2_5_vl"])
def test_models_around_a_qwen3_vl_are_named(model_type: str) -> None:
    refuse(config_for("tiny") | {"model_type": model_type}, model_type)


@pytest.mark.parametrize("architectures", [["Qwen3VLForSequenceClassification"], ["Qwen3VLForEmbedding"], "x", [5]])
def test_other_classes_are_refused(architectures: object) -> None:
    refuse(config_for("tiny") | {"architectures": architectures}, "architectures", "Qwen3VLForConditionalGeneration")


@pytest.mark.parametrize("place", ["", "text_config", "vision_config"])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("quantization_config", {"quant_method": "gptq", "bits": 4}),
        ("quantization_config", {"quant_method": "fp8"}),
        ("compression_config", {"quant_method": "compressed-tensors"}),
        ("auto_map", {"AutoModel": "modeling_mine.MyModel"}),
        ("partial_rotary_factor", 0.5),
        ("qkv_bias", True),
        ("attn_logit_softcapping", 50.0),
        ("embedding_multiplier", 12.0),
        ("num_experts", 128),
        ("window_size", 112),
        ("attention_bias", "yes"),
    ],
)
def test_features_are_refused_wherever_they_stand(place: str, field: str, value: object) -> None:
    config = config_for("tiny")
    (config[place] if place else config)[field] = value
    method = value.get("quant_method", "custom code") if isinstance(value, dict) else str(value)
    refuse(config, place, field, str(method))


@pytest.mark.parametrize(
    "edit",
    [
        {"use_sliding_window": True, "sliding_window": 4096},
        {"use_sliding_window": True},
        {"sliding_window": 4096},
        {"layer_types": ["full_attention", "sliding_attention"]},
        {"layer_types": "sliding_attention"},
    ],
)
def test_windows_are_refused(edit: dict[str, object]) -> None:
    config = config_for("tiny")
    config["text_config"] |= edit
    refuse(config, "text_config", next(iter(edit)).replace("use_", ""))


def test_a_window_that_is_switched_off() -> None:
    config = config_for("tiny")
    config["text_config"] |= {"use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28}
    config["text_config"] |= {"layer_types": ["full_attention"] * 4}
    assert warnings_of(config) == []


@pytest.mark.parametrize(
    ("edit", "parts"),
    [
        ({"rope_type": "yarn", "factor": 4.0}, ("rope_type is 'yarn'",)),
        ({"type": "linear", "factor": 2.0}, ("type is 'linear'",)),
        ({"rope_type": "default", "type": "dynamic"}, ("type is 'dynamic'",)),
        ({"rope_type": "llama3", "low_freq_factor": 1.0}, ("rope_type is 'llama3'",)),
        ({"factor": 4.0}, ("factor is 4.0",)),
        ({"original_max_position_embeddings": 32768}, ("original_max_position_embeddings",)),
        ({"attention_factor": 1.2}, ("attention_factor",)),
        ({"partial_rotary_factor": 0.25}, ("partial_rotary_factor",)),
        ({"mrope_interleaved": False}, ("mrope_interleaved",)),
        ({"rope_theta": 500000}, ("rope_theta is given twice",)),
        ({"mrope_section": [6, 5, 5, 0]}, ("list of 3",)),
        ({"mrope_section": [-6, 11, 11]}, ("negative",)),
    ],
)
@pytest.mark.parametrize("spelling", ["rope_scaling", "rope_parameters", "both"])
def test_rotary_settings(edit: dict[str, object], parts: tuple[str, ...], spelling: str) -> None:
    config = config_for("tiny")
    text = config["text_config"]
    changed = text["rope_scaling"] | edit
    if spelling == "rope_parameters":
        text["rope_parameters"] = text.pop("rope_scaling")
    text["rope_parameters" if spelling != "rope_scaling" else spelling] = changed
    refuse(config, *parts)


@pytest.mark.parametrize("kind", ["default", "mrope", None])
def test_rotary_kinds_that_mean_the_same(kind: str | None) -> None:
    for field in ("rope_type", "type"):
        config = config_for("tiny")
        config["text_config"]["rope_scaling"] = {field: kind, "mrope_section": [6, 5, 5]}
        assert read(config) == read(config_for("tiny"))


@pytest.mark.parametrize("field", ["vocab_size", "rope_theta", "hidden_size", "rope_scaling", "sliding_window"])
def test_a_root_that_contradicts_the_text_config(field: str) -> None:
    config = config_for("tiny")
    text = config["text_config"]
    assert read(config | {field: text.get(field)}) == read(config)
    refuse(config | {field: {"type": "yarn"} if field == "rope_scaling" else 5}, field)


def test_fields_that_nobody_has_heard_of_are_named() -> None:
    config = config_for("tiny")
    config["text_config"] |= {"gated_residual": True, "router_noise": 0.5, "absent": None, "off": False}
    config["vision_config"]["register_tokens"] = 4
    text, vision = warnings_of(config)
    assert "text_config: not read: gated_residual = True, router_noise = 0.5" in text
    assert "absent" not in text + vision
    assert "register_tokens = 4" in vision


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("text_config", "rms_norm_eps", -1.0),
        ("text_config", "rms_norm_eps", 0),
        ("text_config", "rope_theta", 0),
        ("text_config", "rope_theta", 10**400),
        ("text_config", "head_dim", 20),
        ("text_config", "max_position_embeddings", 2**62),
        ("text_config", "num_hidden_layers", 10**70),
        ("text_config", "hidden_size", "9" * 5000),
        ("vision_config", "deepstack_visual_indexes", [0, -1]),
        ("vision_config", "deepstack_visual_indexes", None),
        ("vision_config", "patch_size", 16.0),
        ("vision_config", "in_channels", 4),
        ("vision_config", "num_position_embeddings", 2305),
    ],
)
def test_a_number_that_no_model_has(section: str, field: str, value: object) -> None:
    config = config_for("tiny")
    config[section][field] = value
    refuse(config, section, field)
