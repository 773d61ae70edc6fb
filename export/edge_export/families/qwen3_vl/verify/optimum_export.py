"""Qwen3-VL for optimum's ONNX exporter: registers its two towers and says how to trace them.

optimum-onnx 0.1 does not know Qwen3-VL. Its vision tower is registered as `qwen3_vl_vision`, its decoder with the LM
head as `qwen3_vl`. Positions depend on image sizes through Python loops, which a trace would freeze, so both graphs
take them as inputs; everything else is the transformers model as it is. Needs torch, transformers, optimum-onnx.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from optimum.exporters.onnx.base import OnnxConfig
from optimum.exporters.onnx.convert import export
from optimum.exporters.onnx.model_patcher import ModelPatcher
from optimum.exporters.tasks import TasksManager
from optimum.utils import DummyInputGenerator, NormalizedConfig
from torch import Tensor
from torch.jit import TracerWarning  # type: ignore[attr-defined, unused-ignore]  # unused where torch is absent
from transformers.models.qwen3_vl.modeling_qwen3_vl import apply_rotary_pos_emb_vision, eager_attention_forward

VISION_MODEL_TYPE = "qwen3_vl_vision"
DECODER_MODEL_TYPE = "qwen3_vl"

register = TasksManager.create_register("onnx", overwrite_existing=True)


def trace(model: torch.nn.Module, model_type: str, task: str, path: Path) -> None:
    """Write `model` as fp32 ONNX with the configuration registered for `model_type` and `task`."""
    constructor = TasksManager.get_exporter_config_constructor(
        "onnx", model_type=model_type, task=task, library_name="transformers"
    )
    with warnings.catch_warnings():
        # Every shape that Python code looks at is warned of; test_verify_parity.py tries other shapes than the traced.
        warnings.simplefilter("ignore", TracerWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        export(model, constructor(model.config), path, disable_dynamic_axes_fix=True)


class _DummyInputs(DummyInputGenerator):  # type: ignore[misc]
    """Random inputs of the shapes a trace needs; the traced axes are dynamic, so the sizes mean nothing."""

    SUPPORTED_INPUT_NAMES: tuple[str, ...] = ()

    def __init__(self, task: str, normalized_config: NormalizedConfig, **_: Any) -> None:
        self.task = task
        self.config = normalized_config.config

    def shape(self, input_name: str) -> tuple[int, ...]:
        """Shape of one input."""
        raise NotImplementedError

    def generate(self, input_name: str, framework: str = "pt", int_dtype: str = "int64", **_: Any) -> Tensor:
        """A random tensor; position ids are zeros."""
        del framework
        shape = self.shape(input_name)
        if input_name == "position_ids":
            return torch.zeros(shape, dtype=getattr(torch, int_dtype))
        return torch.rand(shape)


class _VisionDummyInputs(_DummyInputs):
    SUPPORTED_INPUT_NAMES = ("pixel_values", "pos_embeds", "rotary_pos_emb")

    def shape(self, input_name: str) -> tuple[int, ...]:
        vision, num_patches = self.config, 16
        width = {
            "pixel_values": vision.in_channels * vision.temporal_patch_size * vision.patch_size**2,
            "pos_embeds": vision.hidden_size,
            "rotary_pos_emb": vision.hidden_size // vision.num_heads // 2,
        }
        return num_patches, width[input_name]


class _DecoderDummyInputs(_DummyInputs):
    SUPPORTED_INPUT_NAMES = ("inputs_embeds", "deepstack", "position_ids")

    def shape(self, input_name: str) -> tuple[int, ...]:
        hidden, num_tokens = self.config.text_config.hidden_size, 5
        taps = len(self.config.vision_config.deepstack_visual_indexes)
        return {
            "inputs_embeds": (1, num_tokens, hidden),
            "deepstack": (taps, 1, num_tokens, hidden),
            "position_ids": (3, 1, num_tokens),
        }[input_name]


def restore(module: torch.nn.Module, *methods: str) -> None:
    """Undo the swapping of `methods`: what hides the class's own goes."""
    for method in methods:
        vars(module).pop(method, None)


class _Patcher(ModelPatcher):  # type: ignore[misc]
    """Swaps methods of a model while it is traced."""

    def __init__(self, config: OnnxConfig, model: Any, model_kwargs: dict[str, Any] | None = None) -> None:
        self._original_forward = model.forward
        model.forward = MethodType(self.traced_forward(), model)
        super().__init__(config, model, model_kwargs)

    def traced_forward(self) -> Callable[..., dict[str, Tensor]]:
        """The function to trace, in the place of `model.forward`."""
        raise NotImplementedError

    def __exit__(self, *details: object) -> None:
        super().__exit__(*details)
        restore(self._model, "forward")


class _VisionPatcher(_Patcher):
    def traced_forward(self) -> Callable[..., dict[str, Tensor]]:
        original = self._original_forward

        def forward(model: Any, pixel_values: Tensor, pos_embeds: Tensor, rotary_pos_emb: Tensor) -> dict[str, Tensor]:
            model.fast_pos_embed_interpolate = lambda _: pos_embeds
            model.rot_pos_emb = lambda _: rotary_pos_emb
            for block in model.blocks:
                block.attn.forward = MethodType(_one_frame_attention, block.attn)
            no_grid = torch.ones((1, 3), dtype=torch.int64)  # only the replaced methods would look at it
            image_embeds, deepstack = original(pixel_values, no_grid)
            return {"image_embeds": image_embeds, "deepstack": torch.stack(deepstack)}

        return forward

    def __exit__(self, *details: object) -> None:
        super().__exit__(*details)
        restore(self._model, "fast_pos_embed_interpolate", "rot_pos_emb")
        for block in self._model.blocks:
            restore(block.attn, "forward")


def _one_frame_attention(
    self: Any, hidden_states: Tensor, position_embeddings: tuple[Tensor, Tensor], **_: Any
) -> Tensor:
    """Qwen3VLVisionAttention.forward for one frame, without the split into frames (a trace would fix its lengths)."""
    n = hidden_states.shape[0]
    q, k, v = self.qkv(hidden_states).reshape(n, 3, self.num_heads, -1).permute(1, 0, 2, 3).unbind(0)  # [N, H, d]
    q, k = apply_rotary_pos_emb_vision(q, k, *position_embeddings)
    q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (q, k, v))  # [1, H, N, d]
    attended, _weights = eager_attention_forward(self, q, k, v, attention_mask=None, scaling=self.scaling)
    projected: Tensor = self.proj(attended.reshape(n, -1))
    return projected


class _DecoderPatcher(_Patcher):
    def traced_forward(self) -> Callable[..., dict[str, Tensor]]:
        def forward(
            model: Any, inputs_embeds: Tensor, deepstack: Tensor, position_ids: Tensor, **_: Any
        ) -> dict[str, Tensor]:
            text = model.model.language_model
            # `deepstack` covers all positions, so adding it needs no mask.
            text._deepstack_process = lambda hidden_states, _mask, features: hidden_states + features
            lowest = torch.finfo(inputs_embeds.dtype).min
            future = torch.ones_like(inputs_embeds[0] @ inputs_embeds[0].T).triu(1)  # [T, T], T dynamic
            outputs = text(
                inputs_embeds=inputs_embeds,
                position_ids=position_ids,
                attention_mask=(future * lowest)[None, None],
                visual_pos_masks=torch.ones(1),
                deepstack_visual_embeds=list(deepstack.unbind(0)),
                use_cache=False,
            )
            return {"logits": model.lm_head(outputs.last_hidden_state)}

        return forward

    def __exit__(self, *details: object) -> None:
        super().__exit__(*details)
        restore(self._model.model.language_model, "_deepstack_process")


@register(VISION_MODEL_TYPE, "feature-extraction")
class Qwen3VLVisionOnnxConfig(OnnxConfig):  # type: ignore[misc]
    """The vision tower on the patches of one frame."""

    NORMALIZED_CONFIG_CLASS = NormalizedConfig
    DUMMY_INPUT_GENERATOR_CLASSES = (_VisionDummyInputs,)
    _MODEL_PATCHER = _VisionPatcher

    @property
    def inputs(self) -> dict[str, dict[int, str]]:
        """Patches, their interpolated position embeddings, and their rotary angles."""
        patches = {0: "num_patches"}
        return {"pixel_values": patches, "pos_embeds": patches, "rotary_pos_emb": patches}

    @property
    def outputs(self) -> dict[str, dict[int, str]]:
        """As docs/bundle.md's vision graph."""
        return {"image_embeds": {0: "num_tokens"}, "deepstack": {1: "num_tokens"}}


@register(DECODER_MODEL_TYPE, "text-generation")
class Qwen3VLDecoderOnnxConfig(OnnxConfig):  # type: ignore[misc]
    """The decoder with its LM head on a whole sequence of embeddings, without a KV cache."""

    NORMALIZED_CONFIG_CLASS = NormalizedConfig
    DUMMY_INPUT_GENERATOR_CLASSES = (_DecoderDummyInputs,)
    _MODEL_PATCHER = _DecoderPatcher

    @property
    def inputs(self) -> dict[str, dict[int, str]]:
        """Embeddings, DeepStack features (zeros off the image) and M-RoPE positions."""
        return {"inputs_embeds": {1: "tokens"}, "deepstack": {2: "tokens"}, "position_ids": {2: "tokens"}}

    @property
    def outputs(self) -> dict[str, dict[int, str]]:
        """Logits of every token."""
        return {"logits": {1: "tokens"}}
