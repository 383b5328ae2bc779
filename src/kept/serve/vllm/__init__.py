"""What clients know of vLLM's server beside OpenAI's routes: the tokenizer."""
