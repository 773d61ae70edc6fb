"""A bundle in memory: manifest, tokenizer and prompt, positions, decoder graph, KV cache. Knows no engine or socket."""
