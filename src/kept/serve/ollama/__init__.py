"""Ollama's protocol: chat, generate, and what it says of its models."""
