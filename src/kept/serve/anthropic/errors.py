"""Errors in Anthropic's words."""

from __future__ import annotations

from typing import Any, Final

from kept.serve.refusal import Refusal

_KINDS: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def error_body(refusal: Refusal) -> dict[str, Any]:
    """The body of an error, and the data of one within a stream."""
    other = "api_error" if refusal.status >= 500 else "invalid_request_error"
    kind = _KINDS.get(refusal.status, other)
    return {"type": "error", "error": {"type": kind, "message": refusal.message}}
