"""Pages of other origins: refused, but for those that were named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from starlette.responses import Response
from starlette.types import Message, Scope, Send

from kept.serve.refusal import Refusal

_SHOWN: Final = "x-request-id, retry-after, x-kept-queue-place, x-kept-queue-seconds"
_REMEMBERED: Final = "600"  # seconds that a browser need not ask again

Headers = Mapping[bytes, list[bytes]]


class Origins:
    """allowed: beside the server's own."""

    def __init__(self, allowed: tuple[str, ...]) -> None:
        self._allowed = frozenset(allowed)

    def check(self, headers: Headers, scope: Scope) -> str | None:
        """The origin of another's page that may ask; None: it is nobody's, or the server's own.

        Raises Refusal for any other.
        """
        for given in headers.get(b"origin", []):
            origin = given.decode("latin-1")
            if origin in self._allowed:
                return origin
            host = headers.get(b"host", [b""])[0].decode("latin-1")
            if origin != f"{scope['scheme']}://{host}":
                raise Refusal(
                    "pages of this origin may not call this server; --allowed-origins lists those "
                    "that may",
                    403,
                    "unknown_origin",
                )
        return None


def preflight(origin: str, headers: Headers, scope: Scope) -> Response | None:
    """The answer where a browser asks, without a key, whether a page may ask."""
    if scope["method"] != "OPTIONS" or b"access-control-request-method" not in headers:
        return None
    wanted = headers.get(b"access-control-request-headers", [b""])[0].decode("latin-1")
    return Response(
        status_code=204,
        headers={
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Allow-Methods": "GET, POST, DELETE",
            "Access-Control-Allow-Headers": wanted,
            "Access-Control-Max-Age": _REMEMBERED,
            "Vary": "Origin",
        },
    )


def showing(origin: str, send: Send) -> Send:
    """`send`, with what lets a page of this origin read the answer."""
    more = [
        (b"access-control-allow-origin", origin.encode("latin-1")),
        (b"access-control-expose-headers", _SHOWN.encode()),
        (b"vary", b"Origin"),
    ]

    async def answer(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *more]
        await send(message)

    return answer
