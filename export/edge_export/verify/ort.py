"""The one file of the exporter that imports ONNX Runtime: the others say `from edge_export.verify.ort import ort`.

Before the import it switches off what the library would tell its makers, as `edge_runtime/model/graph.py` does
(decision 45); whoever wants that sets the variable to 0.
"""

from __future__ import annotations

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime as ort

__all__ = ["ort"]
