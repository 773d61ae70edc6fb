"""From a Hugging Face Qwen3-VL checkpoint to a bundle. Read `pipeline.py` first. Knows no torch and no runtime."""

__version__ = "0.1.0"
