"""What the parity gate asks of Qwen3-VL; `family.py` is what it sees."""
