"""The pocket model: a tiny, really trained vision-language model of the Qwen3-VL architecture, and its recipe."""
