"""What lasts as long as a request does, and ends with it however that ends."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

ENDS: Final = "ends"


class Lasting:
    """Gives each request a stack of what is to be called at its end, `scope["state"]["ends"]`.

    A generator that was never begun runs none of its own `finally`, so what a route has taken in
    cannot be left to the stream that would have told of it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        with ExitStack() as ends:
            scope.setdefault("state", {})[ENDS] = ends
            await self._app(scope, receive, send)


def ends_of(scope: Scope) -> ExitStack:
    """What is called when a request ends."""
    found: ExitStack = scope["state"][ENDS]
    return found
