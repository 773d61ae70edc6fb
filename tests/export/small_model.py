"""A configuration that exports in a fraction of a second, and small tools for files and graphs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edge_export.random_checkpoint import config_for
from edge_kernels.library import KernelLibrary


def small_config(**text: Any) -> dict[str, Any]:
    """2 decoder layers, 2 vision blocks, 2 DeepStack taps; `text` overrides fields of text_config."""
    config = config_for("tiny")
    config["text_config"] |= {"num_hidden_layers": 2} | text
    config["vision_config"] |= {"depth": 2, "deepstack_visual_indexes": [0, 1], "num_position_embeddings": 16}
    return config


def edit_json(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Change the object in the file `path`."""
    values = json.loads(path.read_text())
    edit(values)
    path.write_text(json.dumps(values))


def open_graph(graph: Path, kernels: KernelLibrary | None = None) -> ort.InferenceSession:
    """The graph on one CPU thread; one of flavour `edge` needs `kernels`."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    if kernels is not None:
        kernels.use_in(options)
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def random_array(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    """Normal values."""
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
