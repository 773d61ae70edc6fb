"""The training recipe of the pocket model: `python -m pocket.train`. Needs torch and transformers (extra `train`)."""
