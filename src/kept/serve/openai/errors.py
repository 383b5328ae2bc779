"""Errors in OpenAI's words."""

from __future__ import annotations

from typing import Any, Final

from kept.serve.refusal import Refusal

_KINDS: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


def error_body(refusal: Refusal) -> dict[str, Any]:
    """The body of an error, and the event of one within a stream."""
    server = "server_error" if refusal.status >= 500 else "invalid_request_error"
    return {
        "error": {
            "message": refusal.message,
            "type": _KINDS.get(refusal.status, server),
            "param": refusal.field,
            "code": refusal.code,
        }
    }
