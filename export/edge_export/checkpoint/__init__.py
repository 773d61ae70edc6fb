"""Reading a Hugging Face checkpoint folder: configuration, processors, tokenizer, weights. Knows nothing of graphs."""
