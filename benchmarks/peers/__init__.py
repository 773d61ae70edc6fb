"""edge_runtime and its peers side by side: one random checkpoint at true size, the same prompts and images, one run."""
