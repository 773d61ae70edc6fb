"""Synthetic screens: what is on them, how they are drawn, and what can be asked about them. Knows nothing of torch."""
