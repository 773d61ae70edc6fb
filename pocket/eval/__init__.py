"""How well a model reads screens it has never seen: `python -m pocket.eval`. Takes any model, not only pocket."""
