"""transformers as a model to evaluate: a Hugging Face checkpoint in float32. Needs torch and transformers.

`AutoProcessor` needs torchvision even for still images, so the prompt is put together here from the tokenizer's chat
template and the slow image processor, which does not.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, Qwen2VLImageProcessor, Qwen3VLForConditionalGeneration

from pocket.eval.case import Image, Messages

_PAD = "<|image_pad|>"
_END_OF_THOUGHT = "</think>"


class TransformersModel:
    """Answers greedily."""

    def __init__(self, checkpoint: Path, max_tokens: int, think: bool = False) -> None:
        load_tokenizer: Any = AutoTokenizer.from_pretrained
        self._tokenizer = load_tokenizer(checkpoint)
        size = json.loads((checkpoint / "preprocessor_config.json").read_text())["size"]
        # The slow processor of 4.57 does not read `size`, only these.
        limits = {"min_pixels": size["shortest_edge"], "max_pixels": size["longest_edge"]}
        self._processor: Any = Qwen2VLImageProcessor.from_pretrained(checkpoint, **limits)
        model: Any = Qwen3VLForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32)
        self._model = model.eval()
        self._max_tokens = max_tokens
        self._switches = {"enable_thinking": True} if think else {}

    def __call__(self, images: Sequence[Image], messages: Messages) -> str:
        """The answer's text, without any thought."""
        text: str = self._tokenizer.decode(self.token_ids(images, messages), skip_special_tokens=True)
        return text.rpartition(_END_OF_THOUGHT)[2].lstrip("\n") if self._switches else text

    def token_ids(self, images: Sequence[Image], messages: Messages) -> list[int]:
        """The answer's tokens, the end token included."""
        prompt: str = self._tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=False, **self._switches
        )
        inputs: dict[str, Any] = {}
        if images:
            pictures = self._processor(images=list(images), return_tensors="pt")
            inputs = {"pixel_values": pictures["pixel_values"], "image_grid_thw": pictures["image_grid_thw"]}
            prompt = self._with_places(prompt, pictures["image_grid_thw"])
        inputs |= self._tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
        with torch.inference_mode():
            output = self._model.generate(**inputs, max_new_tokens=self._max_tokens, do_sample=False)
        ids: list[int] = output[0, inputs["input_ids"].shape[1] :].tolist()
        return ids

    def _with_places(self, prompt: str, grids: torch.Tensor) -> str:
        """The prompt with as many placeholders for each image as it has tokens: four patches make one."""
        head, *tails = prompt.split(_PAD)
        if len(tails) != len(grids):
            raise ValueError(f"the chat has {len(tails)} image parts but {len(grids)} images were given")
        counts = (grids.prod(dim=-1) // self._processor.merge_size**2).tolist()
        return head + "".join(_PAD * count + tail for count, tail in zip(counts, tails, strict=True))
