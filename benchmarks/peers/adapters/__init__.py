"""One file per contender: how a checkpoint is prepared for it, and how it runs one case. `adapter.py` is the seam."""
