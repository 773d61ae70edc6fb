"""edge_runtime: run Qwen3-VL-class vision-language models on a device you can hold.

The file to read first is `edge_runtime/engine/engine.py`.
"""

__version__ = "0.1.0"
