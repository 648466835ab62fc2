"""Model directories, tokenizers, value heads, and responses sampled with vLLM."""
