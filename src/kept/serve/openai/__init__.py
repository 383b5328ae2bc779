"""OpenAI's protocol: chat completions, completions, models."""
