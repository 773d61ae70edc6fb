"""The transformers model as a reference, traced to fp32 ONNX by optimum and run by ONNX Runtime.

Independent of the numpy reference but for preprocessing and prompt layout. Needs the `verify` extra.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from edge_export.errors import OptionError
from edge_export.families.qwen3_vl.reference.config import read_config
from edge_export.families.qwen3_vl.reference.ops import Array
from edge_export.families.qwen3_vl.reference.positions import Ints
from edge_export.families.qwen3_vl.reference.preprocess import Patches
from edge_export.families.qwen3_vl.reference.prompt import Prompt, decoder_input
from edge_export.packages import install_command
from edge_export.verify.memory import require_for_optimum
from edge_export.verify.ort import ort

NEEDED = ("torch", "transformers", "optimum.exporters.onnx")


def open_optimum_reference(source: Path) -> OptimumReference:
    """Trace `source` and load the traces.

    Raises `OptionError` where optimum is not installed or the model is too large for the memory there is.
    """
    missing = [name for name in NEEDED if not _installed(name)]
    if missing:
        raise OptionError(
            f"the optimum reference needs {', '.join(missing)}, which are not installed; use --reference numpy, or "
            f"install the extra edge-runtime[verify]: {install_command('verify')}"
        )
    if not read_config(source).vision.deepstack_visual_indexes:
        raise OptionError(f"{source} has no DeepStack taps, which the traced graphs need; use --reference numpy")
    require_for_optimum(source)
    return OptimumReference(source)


class OptimumReference:
    """Both traced graphs. What the trace leaves outside (positions, embedding rows) is transformers' own too."""

    def __init__(self, source: Path) -> None:
        import torch  # noqa: PLC0415  heavy, and only in the verify extra
        from transformers import Qwen3VLForConditionalGeneration  # noqa: PLC0415

        from edge_export.families.qwen3_vl.verify.optimum_export import DECODER_MODEL_TYPE, VISION_MODEL_TYPE, trace  # noqa: PLC0415

        self._config = read_config(source)
        model = Qwen3VLForConditionalGeneration.from_pretrained(
            source, dtype=torch.float32, attn_implementation="eager", local_files_only=True
        ).eval()
        with TemporaryDirectory(prefix="edge-export-optimum-") as folder:
            vision, decoder = Path(folder, "vision.onnx"), Path(folder, "decoder.onnx")
            trace(model.model.visual, VISION_MODEL_TYPE, "feature-extraction", vision)
            trace(model, DECODER_MODEL_TYPE, "text-generation", decoder)
            self._embed_tokens = model.get_input_embeddings()
            self._positions = model.model.visual
            self._positions.blocks = self._positions.merger = self._positions.deepstack_merger_list = None
            del model  # before ONNX Runtime loads the same weights again
            self._vision = ort.InferenceSession(vision, providers=["CPUExecutionProvider"])
            self._decoder = ort.InferenceSession(decoder, providers=["CPUExecutionProvider"])

    def vision(self, patches: Patches) -> tuple[Array, Array]:
        """Image embeddings [N/4, D] and DeepStack features [L, N/4, D]."""
        import torch  # noqa: PLC0415

        grid_thw = torch.tensor([[1, patches.grid.height, patches.grid.width]])
        with torch.no_grad():
            feeds = {
                "pixel_values": patches.pixel_values,
                "pos_embeds": self._positions.fast_pos_embed_interpolate(grid_thw).numpy(),
                "rotary_pos_emb": self._positions.rot_pos_emb(grid_thw).numpy(),
            }
        image_embeds, deepstack = self._vision.run(["image_embeds", "deepstack"], feeds)
        return image_embeds, deepstack

    def embed(self, input_ids: Ints) -> Array:
        """Embedding rows [T, D]."""
        import torch  # noqa: PLC0415

        with torch.no_grad():
            rows: Array = self._embed_tokens(torch.from_numpy(input_ids)).numpy()
        return rows

    def logits(self, prompt: Prompt, answer: Sequence[int]) -> Array:
        """Logits [n + 1, V] that choose each of the n tokens of `answer`, and the token after them."""
        inputs = decoder_input(self, self._config, prompt, answer)
        feeds = {
            "inputs_embeds": inputs.inputs_embeds[None],
            "deepstack": inputs.deepstack[:, None],
            "position_ids": inputs.position_ids[:, None],
        }
        logits: Array = self._decoder.run(["logits"], feeds)[0][0]  # [T, V]
        return np.ascontiguousarray(logits[-len(answer) - 1 :])


def _installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False
