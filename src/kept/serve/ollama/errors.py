"""Errors in Ollama's words."""

from __future__ import annotations

from kept.serve.refusal import Refusal


def error_body(refusal: Refusal) -> dict[str, str]:
    """The body of an error, and the last line of a stream that fails."""
    return {"error": refusal.message}
