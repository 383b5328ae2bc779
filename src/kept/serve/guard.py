"""What stands before every route: who asks, by which name and from which page, and how much."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kept.serve.callers import Callers
from kept.serve.content_type import taken_for_json
from kept.serve.origins import Origins, preflight, showing
from kept.serve.refusal import Refusal
from kept.serve.settings import Settings

_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_OTHER = re.compile(rb"[^\[\]{}]+")

Refuse = Callable[[Scope, Refusal], ASGIApp]


class Guard:
    """Refuses what must not reach a route, and puts the tenant into `scope["state"]`.

    callers: who may ask. refuse: the answer for a refusal.
    """

    def __init__(
        self, app: ASGIApp, settings: Settings, callers: Callers, *, refuse: Refuse
    ) -> None:
        self._app, self._settings, self._callers, self._refuse = app, settings, callers, refuse
        self._origins = Origins(settings.allowed_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return  # no route is a WebSocket
        headers = _headers(scope)
        try:
            self._callers.check_host(headers)
            origin = self._origins.check(headers, scope)
            if origin is not None:
                asked = preflight(origin, headers, scope)
                if asked is not None:
                    await asked(scope, receive, send)
                    return
                send = showing(origin, send)
            tenant = self._callers.tenant_of(headers, scope["path"])
            scope.setdefault("state", {})["tenant"] = tenant
            receive = await self._bounded(scope, receive)
        except Refusal as refusal:
            await self._refuse(scope, refusal)(scope, receive, send)
            return
        await self._app(taken_for_json(headers, scope), receive, send)

    async def _bounded(self, scope: Scope, receive: Receive) -> Receive:
        """The body, read whole within its limits; what comes behind it is as it was."""
        length = dict(scope["headers"]).get(b"content-length")
        most = self._settings.max_body
        if length is not None and length.isdigit() and int(length) > most:
            raise _too_large(most)
        body = bytearray()
        try:
            async with asyncio.timeout(self._settings.body_timeout):
                while True:
                    message = await receive()
                    if message["type"] != "http.request":
                        break  # it has left; the route hears so
                    body += message.get("body", b"")
                    if len(body) > most:
                        raise _too_large(most)
                    if not message.get("more_body", False):
                        message = {"type": "http.request", "body": bytes(body)}
                        break
        except TimeoutError:
            raise Refusal(
                f"the request did not arrive within {self._settings.body_timeout:g} s",
                408,
                "timeout",
                headers={"Connection": "close"},
            ) from None
        if message["type"] == "http.request":
            check_depth(message["body"], self._settings.max_depth)
        return after(message, receive)


def check_depth(body: bytes, most: int) -> None:
    """Raise Refusal for JSON that is nested deeper, before any of it is parsed."""
    if body.count(b"[") + body.count(b"{") <= most:
        return
    depth = 0
    for bracket in _OTHER.sub(b"", _STRING.sub(b"", body)):
        depth += 1 if bracket in b"[{" else -1
        if depth > most:
            raise Refusal(
                f"the request's JSON is nested more than {most} deep (--max-depth)", 400, "too_deep"
            )


def after(first: Message, receive: Receive) -> Receive:
    """What receives a message that has been received already, and then on."""
    waiting = [first]

    async def next_message() -> Message:
        return waiting.pop() if waiting else await receive()

    return next_message


def _headers(scope: Scope) -> dict[bytes, list[bytes]]:
    found: dict[bytes, list[bytes]] = {}
    for name, value in scope["headers"]:
        found.setdefault(name.lower(), []).append(value)
    return found


def _too_large(most: int) -> Refusal:
    return Refusal(
        f"the request has more than {most} bytes (--max-body)",
        413,
        "too_large",
        headers={"Connection": "close"},
    )
