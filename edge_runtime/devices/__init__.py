"""Device profiles, what this machine is, and whether a model fits it. Knows no model, no graph."""
