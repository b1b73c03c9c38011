"""Models in Hugging Face layout: load, save, the one tokenise path, heads, adapters, checkpoints."""
