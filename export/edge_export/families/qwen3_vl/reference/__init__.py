"""Qwen3-VL in plain numpy: the definition that graphs and kernels are measured against.

Written to be read, from the published architecture (`transformers` 4.57 `models/qwen3_vl`, Apache-2.0, is the source of
the facts), and independent of `edge_runtime` and of the exporter, but for where a
checkpoint's tensors lie (`edge_export.checkpoint`). Read `model.py` first, then `vision.py` and `decoder.py`.
Shapes trail as comments: T tokens, N patches, D hidden size, H heads, V vocabulary, L DeepStack taps.
"""
