"""Qwen3-VL: from a checkpoint's `config.json` to graphs, and what they are measured against."""
