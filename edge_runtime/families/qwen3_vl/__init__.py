"""Qwen3-VL, as transformers' `models/qwen3_vl` defines it. Read `config.py` first."""
