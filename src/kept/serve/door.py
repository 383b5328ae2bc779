"""What too many requests are told at the door, before any of them is looked at."""

from __future__ import annotations

from collections.abc import Callable, Container

from starlette.types import ASGIApp, Receive, Scope, Send

from kept.serve.guard import Refuse, after
from kept.serve.refusal import Refusal


class Door:
    """Refuses a request for a text where there would be no room for it.

    Routing, reading and checking it takes some ten times as long, which those who are being
    answered would pay for.

    paths: to which every POST asks for a text, but those that `echo` a prompt alone, which are let
    through. check_room: raises the Refusal. refuse: the answer for it. Stands behind the guard,
    which has read the body.
    """

    def __init__(
        self,
        app: ASGIApp,
        paths: Container[str],
        *,
        check_room: Callable[[], None],
        refuse: Refuse,
    ) -> None:
        self._app, self._paths = app, paths
        self._check_room, self._refuse = check_room, refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in self._paths:
            message = await receive()
            receive = after(message, receive)
            if b'"echo"' not in message.get("body", b""):
                try:
                    self._check_room()
                except Refusal as refusal:
                    await self._refuse(scope, refusal)(scope, receive, send)
                    return
        await self._app(scope, receive, send)
