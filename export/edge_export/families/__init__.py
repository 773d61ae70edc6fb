"""One folder per model family: its config, graphs, layers, processors and reference. `family.py` is what others see."""
