"""A Qwen3-VL checkpoint as two GGUF files for llama.cpp: the decoder, and the vision tower ("mmproj").

Names and keys are facts of llama.cpp's `src/llama-arch.cpp`, `tools/mtmd/clip-impl.h` and `tools/mtmd/clip.cpp`; the
container is written by the `gguf` package. Tensors pass through memory one at a time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as TensorFormat
from numpy.typing import NDArray

from edge_export.checkpoint.weights import Weights, open_weights

TEXT = "model.language_model"
VISION = "model.visual"

_LAYER_TENSORS = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_BLOCK_TENSORS = {
    "norm1": "ln1",
    "attn.qkv": "attn_qkv",
    "attn.proj": "attn_out",
    "norm2": "ln2",
    "mlp.linear_fc1": "ffn_up",
    "mlp.linear_fc2": "ffn_down",
}


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One tensor of a file to be written; `values` is called once, when its turn has come."""

    name: str
    shape: tuple[int, ...]
    format: TensorFormat
    values: Callable[[], NDArray[np.float32]]


def write_decoder(checkpoint: Path, out: Path) -> None:
    """Decoder and tokenizer; matrices in fp16, for llama-quantize to work on, norms in fp32."""
    config = json.loads((checkpoint / "config.json").read_text())
    text = config["text_config"]
    writer = gguf.GGUFWriter(out, "qwen3vl")
    writer.add_name(checkpoint.name)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_block_count(text["num_hidden_layers"])
    writer.add_context_length(text["max_position_embeddings"])
    writer.add_embedding_length(text["hidden_size"])
    writer.add_feed_forward_length(text["intermediate_size"])
    writer.add_head_count(text["num_attention_heads"])
    writer.add_head_count_kv(text["num_key_value_heads"])
    writer.add_key_length(text["head_dim"])
    writer.add_value_length(text["head_dim"])
    writer.add_layer_norm_rms_eps(text["rms_norm_eps"])
    writer.add_rope_freq_base(text["rope_theta"])
    writer.add_rope_dimension_sections([*text["rope_scaling"]["mrope_section"], 0])
    writer.add_num_deepstack_layers(len(config["vision_config"]["deepstack_visual_indexes"]))
    _add_tokenizer(writer, checkpoint, text["vocab_size"])
    _write(writer, list(_decoder_tensors(open_weights(checkpoint), text["num_hidden_layers"])))


def write_vision(checkpoint: Path, out: Path) -> None:
    """Vision tower and mergers; matrices in Q8_0."""
    config = json.loads((checkpoint / "config.json").read_text())
    vision = config["vision_config"]
    processor = json.loads((checkpoint / "preprocessor_config.json").read_text())
    writer = gguf.GGUFWriter(out, "clip")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_clip_has_vision_encoder(True)
    writer.add_clip_projector_type("qwen3vl_merger")
    writer.add_vision_use_gelu(True)
    writer.add_vision_image_size(int(vision["num_position_embeddings"] ** 0.5) * vision["patch_size"])
    writer.add_vision_patch_size(vision["patch_size"])
    writer.add_vision_embedding_length(vision["hidden_size"])
    writer.add_vision_feed_forward_length(vision["intermediate_size"])
    writer.add_vision_block_count(vision["depth"])
    writer.add_vision_head_count(vision["num_heads"])
    writer.add_vision_attention_layernorm_eps(1e-6)
    writer.add_vision_projection_dim(vision["out_hidden_size"])
    writer.add_vision_spatial_merge_size(vision["spatial_merge_size"])
    writer.add_vision_image_mean(processor["image_mean"])
    writer.add_vision_image_std(processor["image_std"])
    taps = vision["deepstack_visual_indexes"]
    writer.add_vision_is_deepstack_layers([layer in taps for layer in range(vision["depth"])])
    _write(writer, list(_vision_tensors(open_weights(checkpoint), vision["depth"], taps)))


def _decoder_tensors(weights: Weights, num_layers: int) -> Iterator[GgufTensor]:
    yield _matrix(weights, f"{TEXT}.embed_tokens.weight", "token_embd.weight", TensorFormat.F16)
    for layer in range(num_layers):
        for theirs, ours in _LAYER_TENSORS.items():
            name = f"{TEXT}.layers.{layer}.{theirs}.weight"
            yield _matrix(weights, name, f"blk.{layer}.{ours}.weight", TensorFormat.F16)
    yield _matrix(weights, f"{TEXT}.norm.weight", "output_norm.weight", TensorFormat.F16)
    if "lm_head.weight" in weights:
        yield _matrix(weights, "lm_head.weight", "output.weight", TensorFormat.F16)


def _vision_tensors(weights: Weights, depth: int, taps: list[int]) -> Iterator[GgufTensor]:
    yield from _patch_embedding(weights)
    yield _matrix(weights, f"{VISION}.pos_embed.weight", "v.position_embd.weight", TensorFormat.F32)
    layers = {
        f"{VISION}.blocks.{i}.{theirs}": f"v.blk.{i}.{ours}"
        for i in range(depth)
        for theirs, ours in _BLOCK_TENSORS.items()
    }
    layers |= {f"{VISION}.merger.norm": "v.post_ln"}
    layers |= {f"{VISION}.merger.linear_fc1": "mm.0", f"{VISION}.merger.linear_fc2": "mm.2"}
    for i, tap in enumerate(taps):
        for theirs, ours in (("norm", "norm"), ("linear_fc1", "fc1"), ("linear_fc2", "fc2")):
            layers[f"{VISION}.deepstack_merger_list.{i}.{theirs}"] = f"v.deepstack.{tap}.{ours}"
    for theirs, ours in layers.items():
        for part in ("weight", "bias"):
            yield _matrix(weights, f"{theirs}.{part}", f"{ours}.{part}", TensorFormat.Q8_0)


def _patch_embedding(weights: Weights) -> Iterator[GgufTensor]:
    """One convolution per frame of the temporal patch."""
    source = f"{VISION}.patch_embed.proj"
    out, channels, frames, height, width = weights.entries[f"{source}.weight"].shape
    for frame in range(frames):

        def values(frame: int = frame) -> NDArray[np.float32]:
            kernel = weights.rows(f"{source}.weight", 0, out).reshape(out, channels, frames, height, width)
            return np.ascontiguousarray(kernel[:, :, frame])

        name = "v.patch_embd.weight" + (f".{frame}" if frame else "")
        yield GgufTensor(name, (out, channels, height, width), TensorFormat.F32, values)
    yield _matrix(weights, f"{source}.bias", "v.patch_embd.bias", TensorFormat.F32)


def _matrix(weights: Weights, theirs: str, ours: str, matrix_format: TensorFormat) -> GgufTensor:
    """A tensor as it is; vectors stay fp32."""
    shape = weights.entries[theirs].shape
    chosen = matrix_format if len(shape) > 1 else TensorFormat.F32
    return GgufTensor(ours, shape, chosen, lambda: weights.rows(theirs, 0, shape[0]).reshape(shape))


def _write(writer: gguf.GGUFWriter, tensors: list[GgufTensor]) -> None:
    """Header, facts, directory, then the tensors one by one."""
    for tensor in tensors:
        size = int(np.prod(tensor.shape[:-1])) * gguf.quants.quant_shape_to_byte_shape(tensor.shape, tensor.format)[-1]
        writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), size, raw_dtype=tensor.format)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in tensors:
        writer.write_tensor_data(gguf.quants.quantize(tensor.values(), tensor.format))
    writer.close()


def _add_tokenizer(writer: gguf.GGUFWriter, checkpoint: Path, vocab_size: int) -> None:
    """The byte-level BPE of `tokenizer.json`; ids that it leaves open get placeholder names."""
    tokenizer: dict[str, Any] = json.loads((checkpoint / "tokenizer.json").read_text())
    tokens = [f"[PAD{i}]" for i in range(vocab_size)]
    types = [gguf.TokenType.UNUSED] * vocab_size
    for token, token_id in tokenizer["model"]["vocab"].items():
        tokens[token_id], types[token_id] = token, gguf.TokenType.NORMAL
    for added in tokenizer["added_tokens"]:
        kind = gguf.TokenType.CONTROL if added["special"] else gguf.TokenType.USER_DEFINED
        tokens[added["id"]], types[added["id"]] = added["content"], kind
    merges = tokenizer["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    writer.add_eos_token_id(tokens.index("<|im_end|>"))
    writer.add_pad_token_id(tokens.index("<|endoftext|>"))
    writer.add_add_bos_token(False)
    writer.add_chat_template((checkpoint / "chat_template.jinja").read_text())
