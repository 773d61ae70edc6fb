from __future__ import annotations

import re
from typing import Any

import pytest

from edge_export.checkpoint.config import read_architecture
from edge_export.checkpoint.json_file import JsonObject
from edge_export.errors import ConfigError
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


@pytest.mark.parametrize("root", [True, False])
def test_tie_flag_of_the_text_config_wins(root: bool) -> None:
    config = config_for("tiny")
    config["tie_word_embeddings"] = root
    config["text_config"]["tie_word_embeddings"] = not root
    assert read(config).text.tie_word_embeddings is not root
    del config["text_config"]["tie_word_embeddings"]
    assert read(config).text.tie_word_embeddings is root
    del config["tie_word_embeddings"]
    refuse(config, "tie_word_embeddings")


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
