"""Architecture of the pocket model as a transformers configuration. Sizes suit INT4 blocks of 32, 64 or 128."""

from typing import Any

PATCH = 16
TEXT_HIDDEN = 256
ROPE_THETA = 10000.0
MROPE_SECTION = (12, 10, 10)  # pairs of a head's dimensions that turn with time, height and width


def model_config(vocab_size: int, special: dict[str, int]) -> dict[str, Any]:
    """The content of `config.json`. `special` maps special tokens to their ids."""
    end = special["<|im_end|>"]
    return {
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "model_type": "qwen3_vl",
        "image_token_id": special["<|image_pad|>"],
        "video_token_id": special["<|video_pad|>"],
        "vision_start_token_id": special["<|vision_start|>"],
        "vision_end_token_id": special["<|vision_end|>"],
        "tie_word_embeddings": True,
        "dtype": "bfloat16",
        "text_config": {
            "model_type": "qwen3_vl_text",
            "vocab_size": vocab_size,
            "hidden_size": TEXT_HIDDEN,
            "intermediate_size": 448,
            "num_hidden_layers": 6,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 64,
            "hidden_act": "silu",
            "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-6,
            "rope_theta": ROPE_THETA,
            "rope_scaling": {"rope_type": "default", "mrope_section": list(MROPE_SECTION), "mrope_interleaved": True},
            "attention_bias": False,
            "attention_dropout": 0.0,
            "tie_word_embeddings": True,
            "use_cache": True,
            "initializer_range": 0.02,
            "bos_token_id": special["<|endoftext|>"],
            "eos_token_id": end,
            "dtype": "bfloat16",
        },
        "vision_config": {
            "model_type": "qwen3_vl",
            "depth": 5,
            "hidden_size": 256,
            "intermediate_size": 768,
            "num_heads": 4,
            "in_channels": 3,
            "patch_size": PATCH,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "out_hidden_size": TEXT_HIDDEN,
            "num_position_embeddings": 576,
            "deepstack_visual_indexes": [1, 3],
            "hidden_act": "gelu_pytorch_tanh",
            "initializer_range": 0.02,
        },
    }
